"""From events to closed rollouts: a pure state machine over one partition of the log.

The order of a rollout's steps is the order of the log. Only the newest attempt counts, a closed rollout
stays closed (feedback that comes later makes a revision of it), and everything that is dropped is said
with its reason.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from leyden_reward.blame import excuse
from leyden_reward.closed import ClosedRollout, ClosedRollouts, birth
from leyden_reward.decisions import (
    Closed,
    Decision,
    Drop,
    Dropped,
    Kept,
    KeptInPart,
    Opened,
    Revisit,
)
from leyden_reward.feedback import is_part_of
from leyden_reward.open_rollout import OpenRollout
from leyden_reward.sessions import RUNNER, SessionRules, last_word, opens, started
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    Mode,
    Outcome,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Step,
    Trajectory,
    TrajectoryStatus,
    cause_id,
)

__all__ = [
    "Assembly",
    "Closed",
    "Decision",
    "Drop",
    "Dropped",
    "Kept",
    "KeptInPart",
    "Opened",
    "Revisit",
]


@dataclass(slots=True)
class _Open:
    content: OpenRollout
    offset: int
    deadline: datetime
    attempt: int
    owner: tuple[str, str]
    """Tenant and run."""
    timeout_s: float
    started: int
    """The attempt whose start was seen last."""
    between_attempts: bool = False
    ends_at: datetime | None = None
    """For sessions: when the session is over, however busy it is."""
    ghost: bool = False
    """Published already, before a restart: what follows on the log up to its end is without effect."""

    @property
    def is_session(self) -> bool:
        return self.ends_at is not None

    def stale(self, event: EventMessage) -> bool:
        """People's feedback is about the rollout, whatever the attempt."""
        if isinstance(event, SignalRecorded | RolloutFinished) and event.source:
            return False
        return event.attempt < self.attempt or (event.attempt == self.attempt and self.between_attempts)

    def supersedes(self, event: EventMessage) -> Iterator[Dropped]:
        if event.attempt <= self.attempt:
            return
        self.attempt, self.between_attempts = event.attempt, False
        if dropped := self.content.restart():
            yield Dropped(Drop.SUPERSEDED, dropped)

    def belongs(self, event: EventMessage) -> bool:
        return (event.tenant, event.run) == self.owner


class Assembly:
    """The open rollouts of one partition, and a bounded memory of closed ones.

    ``take`` and ``overdue`` decide; they never fail for a decoded event. Times are those of the log. With
    ``keep`` closed rollouts stay in memory whole, so that late feedback revises them at once: for reading
    a few rollouts again.
    """

    def __init__(
        self,
        *,
        grace_s: float = 60.0,
        remember: int = 10_000,
        signal_weights: Mapping[str, float] | None = None,
        sessions: SessionRules | None = None,
        horizon_s: float = 7 * 86_400.0,
        waiting_share: float = 0.25,
        keep: bool = False,
    ) -> None:
        self._grace, self._horizon = timedelta(seconds=grace_s), timedelta(seconds=horizon_s)
        self._signal_weights, self._waiting_share = signal_weights or {}, waiting_share
        self.rules = sessions or SessionRules()
        self._open: dict[UUID, _Open] = {}
        self._closed = ClosedRollouts(remember)
        self._keep = keep

    def __len__(self) -> int:
        return sum(not rollout.ghost for rollout in self._open.values())

    def take(self, event: EventMessage, offset: int, now: datetime) -> list[Decision]:
        """What one event, read at ``offset`` at the time ``now``, changes."""
        rollout = self._open.get(event.rollout_id)
        if rollout is None:
            return self._without(event, offset, now)
        if rollout.deadline <= now:
            return [*self._closing(rollout, self._given_up(rollout)), *self._without(event, offset, now)]
        return self._within(rollout, event, offset, now)

    def overdue(self, now: datetime) -> list[Closed]:
        """Close the rollouts whose end did not come in time: as excluded, or, if sessions, as they are."""
        late = [rollout for rollout in self._open.values() if rollout.deadline <= now]
        return [closed for rollout in late for closed in self._closing(rollout, self._given_up(rollout))]

    def may_go_on(self, event: EventMessage) -> bool:
        """Whether the event is of a session that is not known here, and so may have begun before."""
        if event.rollout_id in self._open or self._closed.ended(event):
            return False
        match event:
            case CompletionRecorded():
                return opens(event)
            case SignalRecorded(source=source) | RolloutFinished(source=source):
                return bool(source)
            case _:
                return False

    def remember(self, before: "Assembly") -> None:
        """Take over what ``before`` knows of the log before this assembly's first event.

        All of it was published, so what is open there is a ghost here.
        """
        for rollout_id, rollout in before._open.items():
            if rollout.is_session and rollout_id not in self._open:
                rollout.ghost = True
                self._open[rollout_id] = rollout
        self._closed.take_over(before._closed)

    # -- events of open rollouts

    def _within(self, rollout: _Open, event: EventMessage, offset: int, now: datetime) -> list[Decision]:
        if not rollout.belongs(event):
            return [Dropped(Drop.OTHER_TENANT)]
        if rollout.stale(event):
            return [Dropped(Drop.STALE_ATTEMPT)]
        if not rollout.content.is_new(event):
            odd = rollout.content.contradicts(event)
            return [Dropped(Drop.CONTRADICTORY if odd else Drop.DUPLICATE)]
        return [*rollout.supersedes(event), *self._apply(rollout, event, offset, now)]

    def _apply(self, rollout: _Open, event: EventMessage, offset: int, now: datetime) -> list[Decision]:
        match event:
            case RolloutStarted():
                return [_started_again(rollout, event)]
            case CompletionRecorded():
                return [self._completion(rollout, event, now)]
            case SignalRecorded():
                return self._signal(rollout, event, offset, now)
            case RolloutFinished(source=source) if source and not rollout.is_session:
                return [Dropped(Drop.NOT_A_SESSION)]
            case RolloutFinished(final=False):
                rollout.between_attempts = True
                return [Kept()]
            case RolloutFinished():
                return list(self._closing(rollout, _finished(rollout, event, self._waiting_share)))

    def _completion(self, rollout: _Open, event: CompletionRecorded, now: datetime) -> Decision:
        if rollout.ends_at is not None:
            rollout.deadline = min(now + self.rules.idle, rollout.ends_at)
        return Kept() if rollout.content.add_completion(event) else KeptInPart()

    def _signal(self, rollout: _Open, event: SignalRecorded, offset: int, now: datetime) -> list[Decision]:
        if (term := self._term(event)) is None:
            return [Dropped(Drop.SIGNAL_NOT_FINITE)]
        if not rollout.content.add_signal(term, event.completion_id):
            if rollout.is_session and self._counts(event):
                return self._late(event, offset, now)
            return [Dropped(Drop.UNKNOWN_COMPLETION)]
        if rollout.is_session and event.completion_id is None and event.name in self.rules.close_on:
            return list(self._closing(rollout, _ended(rollout, event.occurred_at)))
        return [Kept()]

    def _term(self, event: SignalRecorded) -> RewardTerm | None:
        value = 0.0 if event.value is None else event.value
        if not math.isfinite(value):
            return None
        weight = self._signal_weights.get(event.name, 0.0)
        return RewardTerm(name=f"signal.{event.name}", value=value, weight=weight, feedback=event.text)

    # -- events of rollouts that are not open

    def _without(self, event: EventMessage, offset: int, now: datetime) -> list[Decision]:
        ended = self._closed.ended(event)
        match event:
            case RolloutStarted() if not ended:
                limits = event.task.limits
                longest = timedelta(seconds=limits.timeout_s * limits.max_attempts)
                return [self._opened(event, offset, now + longest + self._grace)]
            case CompletionRecorded() if not ended and opens(event):
                return self._session(event, offset, now)
            case CompletionRecorded(mode=Mode.PRODUCTION) if not ended:
                return [Dropped(Drop.NOT_A_CONVERSATION)]
            case SignalRecorded() if self._keep or self._counts(event):
                return self._late(event, offset, now)
            case _:
                return [Dropped(Drop.LATE if ended else Drop.UNKNOWN_ROLLOUT)]

    def _opened(self, start: RolloutStarted, offset: int, deadline: datetime) -> Opened:
        self._open[start.rollout_id] = _Open(
            OpenRollout(start),
            offset,
            deadline,
            start.attempt,
            owner=(start.tenant, start.run),
            timeout_s=start.task.limits.timeout_s,
            started=start.attempt,
        )
        return Opened(offset)

    def _session(self, event: CompletionRecorded, offset: int, now: datetime) -> list[Decision]:
        opened = self._opened(started(event, self.rules), offset, now + self.rules.idle)
        rollout = self._open[event.rollout_id]
        rollout.ends_at = now + self.rules.longest
        rollout.content.is_new(event)
        kept = self._completion(rollout, event, now)
        return [opened, kept]

    def _counts(self, event: SignalRecorded) -> bool:
        """Whether the signal may change what its closed rollout is worth."""
        if self._signal_weights.get(event.name):
            return True
        return event.name in self.rules.counting and self._closed.by_feedback(event.rollout_id)

    def _late(self, event: SignalRecorded, offset: int, now: datetime) -> list[Decision]:
        """Feedback on what is closed: a revision, now if it is in memory, else once it was read again."""
        if (term := self._term(event)) is None:
            return [Dropped(Drop.SIGNAL_NOT_FINITE)]
        if self._keep:
            counting = event.name in self.rules.counting
            return [self._closed.revise(event, term, offset, counting=counting)]
        known = self._closed.begin_of(event)
        return [Revisit(event.rollout_id, self._look_back(event, now) if known is None else known, offset)]

    def _look_back(self, event: SignalRecorded, now: datetime) -> datetime:
        """The time before which nothing need be read: as far as a session can reach before a completion."""
        furthest = now - self._horizon
        born = birth(event.completion_id) if event.completion_id else None
        return furthest if born is None else max(furthest, born - self.rules.reach)

    # -- ends

    def end_before(self, event: SignalRecorded) -> None:
        """Close the open session that the signal is about: when the signal came, it was over."""
        rollout = self._open.get(event.rollout_id)
        if rollout is None or not rollout.is_session:
            return
        if event.completion_id is None or rollout.content.has(event.completion_id):
            list(self._closing(rollout, self._given_up(rollout)))

    def _given_up(self, rollout: _Open) -> Trajectory:
        return _ended(rollout, rollout.deadline) if rollout.is_session else _given_up(rollout)

    def _closing(self, rollout: _Open, trajectory: Trajectory) -> Iterator[Closed]:
        del self._open[trajectory.rollout_id]
        signals, nbytes = rollout.content.signals(), rollout.content.nbytes
        closed = ClosedRollout(
            rollout.offset,
            trajectory.finished_at,
            is_session=rollout.is_session,
            by_feedback=is_part_of(trajectory.task.reward),
        )
        if self._keep:
            closed.content, closed.trajectory = rollout.content, trajectory
        self._closed.add(trajectory.rollout_id, closed)
        if not rollout.ghost:
            yield Closed(rollout.offset, trajectory, signals, nbytes)


def _started_again(rollout: _Open, event: RolloutStarted) -> Decision:
    """Another attempt's start says nothing new; a second one of the same is somebody's mistake."""
    if rollout.is_session:
        return Dropped(Drop.OUT_OF_ORDER)
    if rollout.content.starts_otherwise(event):
        return Dropped(Drop.CONTRADICTORY)
    repeated, rollout.started = event.attempt <= rollout.started, event.attempt
    return Dropped(Drop.DUPLICATE) if repeated else Kept()


def _finished(rollout: _Open, event: RolloutFinished, waiting_share: float) -> Trajectory:
    steps, output = rollout.content.steps(), event.output
    if output is None and rollout.is_session:
        output = last_word(steps)
    ran_s = event.duration_s or rollout.timeout_s
    for_people = rollout.is_session and event.outcome is Outcome.SUCCEEDED
    excused = None if for_people else excuse(event.outcome, steps, ran_s=ran_s, waiting_share=waiting_share)
    return _trajectory(
        rollout,
        event.outcome,
        finished_at=event.occurred_at,
        output=output,
        error=event.error,
        excluded=excused,
        steps=steps,
    )


def _ended(rollout: _Open, at: datetime) -> Trajectory:
    """A session that nobody finished: whether it went well is for its feedback to say."""
    steps = rollout.content.steps()
    return _trajectory(
        rollout,
        Outcome.SUCCEEDED,
        finished_at=at,
        output=last_word(steps),
        error=None,
        excluded=None,
        steps=steps,
    )


def _given_up(rollout: _Open) -> Trajectory:
    return _trajectory(
        rollout,
        Outcome.INFRASTRUCTURE_FAILED,
        finished_at=rollout.deadline,
        output=None,
        error=f"attempt {rollout.attempt} was not reported finished by {rollout.deadline.isoformat()}",
        excluded="deadline",
        steps=rollout.content.steps(),
    )


def _trajectory(
    rollout: _Open,
    outcome: Outcome,
    *,
    finished_at: datetime,
    output: object,
    error: str | None,
    excluded: str | None,
    steps: list[Step],
) -> Trajectory:
    start = rollout.content.start
    about = (start.group_id,) if start.runner == RUNNER else (start.rollout_id, rollout.attempt)
    return Trajectory(
        tenant=start.tenant,
        run=start.run,
        trajectory_id=cause_id("trajectory", *about),
        rollout_id=start.rollout_id,
        group_id=start.group_id,
        index=start.index,
        attempt=rollout.attempt,
        task=start.task,
        queue=start.queue,
        outcome=outcome,
        output=output,
        error=error,
        status=TrajectoryStatus.EXCLUDED if excluded else TrajectoryStatus.SCORED,
        excluded_reason=excluded,
        steps=steps,
        finished_at=finished_at,
    )
