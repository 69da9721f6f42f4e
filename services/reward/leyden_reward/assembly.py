"""From events to closed rollouts: a pure state machine over one partition of the log.

The order of a rollout's steps is the order of the log. Only the newest attempt counts, a closed rollout
stays closed, and everything that is dropped is said with its reason.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from leyden_platform.messaging.recent import RecentIds
from leyden_reward.open_rollout import OpenRollout
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    Outcome,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Trajectory,
    TrajectoryStatus,
    cause_id,
)


class Drop(StrEnum):
    """Why an event changed nothing."""

    UNKNOWN_ROLLOUT = "unknown_rollout"
    LATE = "late"
    DUPLICATE = "duplicate"
    STALE_ATTEMPT = "stale_attempt"
    SUPERSEDED = "superseded"
    UNKNOWN_COMPLETION = "unknown_completion"
    SIGNAL_NOT_FINITE = "signal_not_finite"


@dataclass(frozen=True, slots=True)
class Opened:
    """A rollout began; the log is needed from ``offset`` on until it is published."""

    offset: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The event belongs to an open rollout."""


@dataclass(frozen=True, slots=True)
class KeptInPart:
    """The same, but its prompt cannot be made whole: its step says so and has none."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """``count`` events are without effect."""

    reason: Drop
    count: int = 1


@dataclass(frozen=True, slots=True)
class Closed:
    """A rollout is over: its trajectory, without rewards, and the signals given to it as a whole."""

    offset: int
    trajectory: Trajectory
    signals: tuple[RewardTerm, ...] = ()


Decision = Opened | Kept | KeptInPart | Dropped | Closed


@dataclass(slots=True)
class _Open:
    content: OpenRollout
    offset: int
    deadline: datetime
    attempt: int
    between_attempts: bool = False

    def stale(self, event: EventMessage) -> bool:
        return event.attempt < self.attempt or (event.attempt == self.attempt and self.between_attempts)

    def supersede(self, attempt: int) -> Iterator[Dropped]:
        self.attempt, self.between_attempts = attempt, False
        if dropped := self.content.restart():
            yield Dropped(Drop.SUPERSEDED, dropped)


class Assembly:
    """The open rollouts of one partition, and a bounded memory of closed ones.

    ``take`` and ``overdue`` decide; they never fail for a decoded event. Times are those of the log.
    """

    def __init__(
        self, *, grace_s: float = 60.0, remember: int = 10_000, signal_weights: dict[str, float] | None = None
    ) -> None:
        self._grace = timedelta(seconds=grace_s)
        self._signal_weights = signal_weights or {}
        self._open: dict[UUID, _Open] = {}
        self._closed = RecentIds(remember)

    def __len__(self) -> int:
        return len(self._open)

    def take(self, event: EventMessage, offset: int, now: datetime) -> list[Decision]:
        """What one event, read at ``offset`` at the time ``now``, changes."""
        if event.rollout_id in self._closed:
            return [Dropped(Drop.LATE)]
        rollout = self._open.get(event.rollout_id)
        if rollout is None:
            return [self._start(event, offset, now)]
        if rollout.stale(event):
            return [Dropped(Drop.STALE_ATTEMPT)]
        if not rollout.content.is_new(event):
            return [Dropped(Drop.DUPLICATE)]
        superseded = rollout.supersede(event.attempt) if event.attempt > rollout.attempt else ()
        return [*superseded, self._apply(rollout, event)]

    def overdue(self, now: datetime) -> list[Closed]:
        """Close, as excluded, the rollouts whose end did not come in time."""
        late = [rollout for rollout in self._open.values() if rollout.deadline <= now]
        return [self._close(rollout, _given_up(rollout)) for rollout in late]

    def _start(self, event: EventMessage, offset: int, now: datetime) -> Decision:
        if not isinstance(event, RolloutStarted):
            return Dropped(Drop.UNKNOWN_ROLLOUT)
        limits = event.task.limits
        deadline = now + timedelta(seconds=limits.timeout_s * limits.max_attempts) + self._grace
        self._open[event.rollout_id] = _Open(OpenRollout(event), offset, deadline, event.attempt)
        return Opened(offset)

    def _apply(self, rollout: _Open, event: EventMessage) -> Decision:
        match event:
            case RolloutStarted():
                return Kept()
            case CompletionRecorded():
                return Kept() if rollout.content.add_completion(event) else KeptInPart()
            case SignalRecorded():
                return self._signal(rollout, event)
            case RolloutFinished(final=False):
                rollout.between_attempts = True
                return Kept()
            case RolloutFinished():
                return self._close(rollout, _finished(rollout, event))

    def _signal(self, rollout: _Open, event: SignalRecorded) -> Decision:
        value = 0.0 if event.value is None else event.value
        if not math.isfinite(value):
            return Dropped(Drop.SIGNAL_NOT_FINITE)
        term = RewardTerm(
            name=f"signal.{event.name}",
            value=value,
            weight=self._signal_weights.get(event.name, 0.0),
            feedback=event.text,
        )
        known = rollout.content.add_signal(term, event.completion_id)
        return Kept() if known else Dropped(Drop.UNKNOWN_COMPLETION)

    def _close(self, rollout: _Open, trajectory: Trajectory) -> Closed:
        del self._open[trajectory.rollout_id]
        self._closed.add(trajectory.rollout_id)
        return Closed(rollout.offset, trajectory, rollout.content.signals())


def _finished(rollout: _Open, event: RolloutFinished) -> Trajectory:
    blameless = event.outcome is Outcome.INFRASTRUCTURE_FAILED
    return _trajectory(
        rollout,
        event.outcome,
        finished_at=event.occurred_at,
        output=event.output,
        error=event.error,
        excluded=event.outcome.value if blameless else None,
    )


def _given_up(rollout: _Open) -> Trajectory:
    return _trajectory(
        rollout,
        Outcome.INFRASTRUCTURE_FAILED,
        finished_at=rollout.deadline,
        output=None,
        error=f"attempt {rollout.attempt} was not reported finished by {rollout.deadline.isoformat()}",
        excluded="deadline",
    )


def _trajectory(
    rollout: _Open,
    outcome: Outcome,
    *,
    finished_at: datetime,
    output: object,
    error: str | None,
    excluded: str | None,
) -> Trajectory:
    start = rollout.content.start
    return Trajectory(
        tenant=start.tenant,
        run=start.run,
        trajectory_id=cause_id("trajectory", start.rollout_id, rollout.attempt),
        rollout_id=start.rollout_id,
        group_id=start.group_id,
        index=start.index,
        attempt=rollout.attempt,
        task=start.task,
        outcome=outcome,
        output=output,
        error=error,
        status=TrajectoryStatus.EXCLUDED if excluded else TrajectoryStatus.SCORED,
        excluded_reason=excluded,
        steps=rollout.content.steps(),
        finished_at=finished_at,
    )
