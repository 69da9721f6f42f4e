"""The two events of an attempt; their ids derive from rollout and attempt, so a repeat is recognised."""

from datetime import datetime
from typing import Any

from leyden_schemas import Outcome, RolloutAssigned, RolloutFinished, RolloutStarted, cause_id


def started(assigned: RolloutAssigned, attempt: int, *, runner: str, at: datetime) -> RolloutStarted:
    """``runner`` leased ``attempt`` and is about to run the agent."""
    return RolloutStarted(
        **_common("rollout_started", assigned, attempt, at),
        group_id=assigned.group_id,
        index=assigned.index,
        task=assigned.task,
        queue=assigned.queue,
        runner=runner,
    )


def finished(
    assigned: RolloutAssigned,
    attempt: int,
    outcome: Outcome,
    *,
    at: datetime,
    final: bool,
    output: Any = None,
    error: str | None = None,
    log_tail: str = "",
    duration_s: float = 0.0,
) -> RolloutFinished:
    """``attempt`` ended."""
    return RolloutFinished(
        **_common("rollout_finished", assigned, attempt, at),
        outcome=outcome,
        output=output,
        error=error,
        log_tail=log_tail,
        duration_s=duration_s,
        final=final,
    )


def _common(kind: str, assigned: RolloutAssigned, attempt: int, at: datetime) -> dict[str, Any]:
    return {
        "tenant": assigned.tenant,
        "run": assigned.run,
        "event_id": cause_id(kind, assigned.rollout_id, attempt),
        "rollout_id": assigned.rollout_id,
        "attempt": attempt,
        "occurred_at": at,
    }
