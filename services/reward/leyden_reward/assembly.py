"""From events to closed rollouts: a pure state machine over one partition of the log.

The order of a rollout's steps is the order of the log. Only the newest attempt counts, a closed rollout
stays closed, and everything that is dropped is said with its reason.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from leyden_platform.messaging.recent import RecentIds
from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    EventMessage,
    JsonObject,
    Outcome,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Step,
    Trajectory,
    TrajectoryStatus,
    UnknownBase,
    cause_id,
    expand,
)

BASE_UNKNOWN = "base_unknown"
"""Why a step cannot be trained on whose prompt leans on a completion that this attempt does not have."""


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
class _OpenRollout:
    start: RolloutStarted
    offset: int
    deadline: datetime
    attempt: int
    between_attempts: bool = False
    seen: set[UUID] = field(default_factory=set)
    steps: dict[UUID, Step] = field(default_factory=dict)
    signals: list[RewardTerm] = field(default_factory=list)

    def stale(self, event: EventMessage) -> bool:
        return event.attempt < self.attempt or (event.attempt == self.attempt and self.between_attempts)

    def supersede(self, attempt: int) -> Iterator[Dropped]:
        dropped = len(self.steps) + len(self.signals)
        self.attempt, self.between_attempts = attempt, False
        self.steps, self.signals = {}, []
        if dropped:
            yield Dropped(Drop.SUPERSEDED, dropped)

    def is_new(self, event: EventMessage) -> bool:
        ids = {event.event_id}
        if isinstance(event, CompletionRecorded):
            ids.add(event.completion_id)
        new = self.seen.isdisjoint(ids)
        self.seen |= ids
        return new

    def whole(self, completion_id: UUID) -> Step | None:
        """A step of this attempt, unless its own prompt is not known."""
        step = self.steps.get(completion_id)
        return None if step is None or step.untrainable == BASE_UNKNOWN else step


class Assembly:
    """The open rollouts of one partition, and a bounded memory of closed ones.

    ``take`` and ``overdue`` decide; they never fail for a decoded event. Times are those of the log.
    """

    def __init__(
        self, *, grace_s: float = 60.0, remember: int = 10_000, signal_weights: dict[str, float] | None = None
    ) -> None:
        self._grace = timedelta(seconds=grace_s)
        self._signal_weights = signal_weights or {}
        self._open: dict[UUID, _OpenRollout] = {}
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
        if not rollout.is_new(event):
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
        rollout = _OpenRollout(event, offset, deadline, event.attempt, seen={event.event_id})
        self._open[event.rollout_id] = rollout
        return Opened(offset)

    def _apply(self, rollout: _OpenRollout, event: EventMessage) -> Decision:
        match event:
            case RolloutStarted():
                return Kept()
            case CompletionRecorded():
                return self._completion(rollout, event)
            case SignalRecorded():
                return self._signal(rollout, event)
            case RolloutFinished(final=False):
                rollout.between_attempts = True
                return Kept()
            case RolloutFinished():
                return self._close(rollout, _finished(rollout, event))

    def _completion(self, rollout: _OpenRollout, event: CompletionRecorded) -> Decision:
        try:
            rollout.steps[event.completion_id] = _step(expand(event, rollout.whole))
        except UnknownBase:
            rollout.steps[event.completion_id] = _step(_without_prompt(event))
            return KeptInPart()
        return Kept()

    def _signal(self, rollout: _OpenRollout, event: SignalRecorded) -> Decision:
        value = 0.0 if event.value is None else event.value
        if not math.isfinite(value):
            return Dropped(Drop.SIGNAL_NOT_FINITE)
        term = RewardTerm(
            name=f"signal.{event.name}",
            value=value,
            weight=self._signal_weights.get(event.name, 0.0),
            feedback=event.text,
        )
        if event.completion_id is None:
            rollout.signals.append(term)
        elif (step := rollout.steps.get(event.completion_id)) is not None:
            rollout.steps[event.completion_id] = step.model_copy(update={"terms": [*step.terms, term]})
        else:
            return Dropped(Drop.UNKNOWN_COMPLETION)
        return Kept()

    def _close(self, rollout: _OpenRollout, trajectory: Trajectory) -> Closed:
        del self._open[rollout.start.rollout_id]
        self._closed.add(rollout.start.rollout_id)
        return Closed(rollout.offset, trajectory, tuple(rollout.signals))


def _step(event: CompletionRecorded) -> Step:
    """Not validated again: every field was, as part of the event, and token lists are long."""
    undelivered = None if event.status is CompletionStatus.OK else event.status.value
    return Step.model_construct(
        tenant=event.tenant,
        run=event.run,
        completion_id=event.completion_id,
        agent=event.agent,
        policy=event.policy,
        version=event.version,
        prompt_token_ids=event.prompt_token_ids,
        token_ids=event.token_ids,
        logprobs=event.logprobs,
        finish_reason=event.finish_reason,
        untrainable=event.untrainable or undelivered,
        request=event.request,
        response=event.response,
    )


def _without_prompt(event: CompletionRecorded) -> CompletionRecorded:
    """Neither request nor response either: rules would blame the agent for what is missing in them."""
    missing: JsonObject = {"prompt_token_ids": [], "request": {}, "response": None}
    return event.model_copy(update=missing | {"base": None, "untrainable": BASE_UNKNOWN})


def _finished(rollout: _OpenRollout, event: RolloutFinished) -> Trajectory:
    blameless = event.outcome is Outcome.INFRASTRUCTURE_FAILED
    return _trajectory(
        rollout,
        event.outcome,
        finished_at=event.occurred_at,
        output=event.output,
        error=event.error,
        excluded=event.outcome.value if blameless else None,
    )


def _given_up(rollout: _OpenRollout) -> Trajectory:
    return _trajectory(
        rollout,
        Outcome.INFRASTRUCTURE_FAILED,
        finished_at=rollout.deadline,
        output=None,
        error=f"attempt {rollout.attempt} was not reported finished by {rollout.deadline.isoformat()}",
        excluded="deadline",
    )


def _trajectory(
    rollout: _OpenRollout,
    outcome: Outcome,
    *,
    finished_at: datetime,
    output: object,
    error: str | None,
    excluded: str | None,
) -> Trajectory:
    start = rollout.start
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
        steps=list(rollout.steps.values()),
        finished_at=finished_at,
    )
