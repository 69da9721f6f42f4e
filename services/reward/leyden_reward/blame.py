"""Whose fault a failed attempt was: an agent is not blamed for what we did to it.

The runner tells what it saw from outside. The log tells more: calls that we failed, or let wait for a version
or for room on a server, are on record.
"""

from collections.abc import Sequence
from typing import Protocol

from leyden_schemas import CompletionStatus, Outcome, Timings

OVERLOADED = "overloaded"
"""Why an attempt is excluded that ran out of time while it waited for us."""

OURS = frozenset(
    {
        "gateway_paused",
        "gateway_stopping",
        "malformed_answer",
        "model_unavailable",
        "replicas_busy",
        "replicas_failing",
        "truncated_stream",
        "upstream_timeout",
        "upstream_unavailable",
    }
)
"""``untrainable`` of calls that infrastructure failed (docs/gateway.md says what each means)."""


class Answered(Protocol):
    """What of a step is looked at."""

    @property
    def status(self) -> CompletionStatus:
        """Whether the caller got it."""

    @property
    def untrainable(self) -> str | None:
        """Why not."""

    @property
    def timings(self) -> Timings | None:
        """How long it took."""


def excuse(outcome: Outcome, steps: Sequence[Answered], *, ran_s: float, waiting_share: float) -> str | None:
    """Why the attempt is excluded instead of rewarded; None when the outcome is the agent's own.

    Out of time: when calls waited for us for more than ``waiting_share`` of the ``ran_s`` seconds. Failed, or
    ended with what it had: when the last call was one that we failed.
    """
    match outcome:
        case Outcome.INFRASTRUCTURE_FAILED:
            return outcome.value
        case Outcome.TIMED_OUT:
            return OVERLOADED if sum(map(waited_s, steps)) > waiting_share * ran_s else None
        case Outcome.AGENT_FAILED | Outcome.SUCCEEDED:
            return Outcome.INFRASTRUCTURE_FAILED.value if steps and _ours(steps[-1]) else None


def waited_s(step: Answered) -> float:
    """Seconds that the call cost its agent through us: all of one that we failed or never sent anywhere, else
    those until it was sent."""
    timings = step.timings
    if timings is None:
        return 0.0
    if _ours(step) or timings.queue_s is None:
        return timings.total_s
    return timings.queue_s


def _ours(step: Answered) -> bool:
    return step.status is not CompletionStatus.OK and step.untrainable in OURS
