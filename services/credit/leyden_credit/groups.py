"""From trajectories to closed groups: a pure state machine over one partition of the log.

A group is every rollout of one task, each in its highest revision. It closes when all have arrived, scored or
excluded, or at a deadline with those that did. Deadlines are checked against the time of the log before every
trajectory, so which trajectories are late does not depend on when this code ran.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self
from uuid import UUID

from leyden_credit.states import states_of
from leyden_platform.messaging.recent import RecentIds
from leyden_platform.transcript import TEXTS, Transcript
from leyden_schemas import PromptBase, Split, Step, Task, Trajectory, TrajectoryStatus


class Drop(StrEnum):
    """Why a trajectory is not taken into a group."""

    EVAL = "eval"
    DUPLICATE = "duplicate"
    LATE = "late"
    REVISED_LATE = "revised_late"
    SUPERSEDED = "superseded"
    OTHER_TASK = "other_task"


@dataclass(frozen=True, slots=True)
class Opened:
    """A group's first trajectory; the log is needed from ``offset`` on until its samples are published."""

    offset: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The trajectory waits for the others of its group."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The trajectory is without effect."""

    reason: Drop


@dataclass(frozen=True, slots=True)
class Member:
    """A trajectory of a group, packed, and a digest of the state that each of its steps saw.

    The conversation is not in it, because it is not read again.
    """

    rollout_id: UUID
    index: int
    revision: int
    states: tuple[bytes | None, ...]
    transcript: Transcript = field(compare=False)
    packed: bytes = field(compare=False)
    """The trajectory without its steps. Equal ones may be packed differently, because packing learns."""

    @classmethod
    def of(cls, trajectory: Trajectory) -> Self:
        """What a group keeps of a trajectory."""
        bare = trajectory.model_copy(update={"steps": [], "output": None})
        return cls(
            trajectory.rollout_id,
            trajectory.index,
            trajectory.revision,
            states_of(trajectory.steps),
            Transcript(map(_without_conversation, trajectory.steps)),
            TEXTS.squeeze(bare.to_json()),
        )

    def head(self) -> Trajectory:
        """The trajectory without its steps."""
        return Trajectory.model_validate_json(TEXTS.expand(self.packed))

    @property
    def trajectory(self) -> Trajectory:
        """The trajectory without its conversation."""
        return self.head().model_copy(update={"steps": self.transcript.steps()})


def _without_conversation(step: Step) -> Step:
    told = step.told()
    base = told.base and PromptBase(completion_id=told.base.completion_id, tokens=told.base.tokens)
    return told.model_copy(update={"request": {}, "response": None, "base": base})


@dataclass(frozen=True, slots=True)
class ClosedGroup:
    """What arrived of a group, in order of the rollouts' index; ``complete`` when that is all."""

    offset: int
    complete: bool
    members: tuple[Member, ...]


Decision = Opened | Kept | Dropped | ClosedGroup


@dataclass(slots=True)
class _OpenGroup:
    offset: int
    deadline: datetime
    tenant: str
    run: str
    task: Task
    members: dict[UUID, Member] = field(default_factory=dict)

    def is_for(self, trajectory: Trajectory) -> bool:
        return (self.tenant, self.run, self.task) == (trajectory.tenant, trajectory.run, trajectory.task)


class Groups:
    """The open groups of one partition, and a bounded memory of closed ones.

    Times are those of the log; one earlier than another that was seen counts as that one.
    """

    def __init__(self, *, deadline_s: float = 600.0, remember: int = 10_000) -> None:
        self._deadline = timedelta(seconds=deadline_s)
        self._open: dict[UUID, _OpenGroup] = {}
        self._closed = RecentIds(remember)
        self._unused = RecentIds(remember)
        self._now: datetime | None = None

    def __len__(self) -> int:
        return len(self._open)

    def take(self, trajectory: Trajectory, offset: int, now: datetime) -> list[Decision]:
        """What one trajectory, read at ``offset`` at the time ``now``, changes."""
        return [*self.overdue(now), *self._take(trajectory, offset, self._latest(now))]

    def overdue(self, now: datetime) -> list[ClosedGroup]:
        """Close the groups that waited long enough, with what arrived."""
        latest, late = self._latest(now), []
        for group_id, group in self._open.items():  # in order of their deadlines
            if group.deadline > latest:
                break
            late.append(group_id)
        return [self._close(group_id, complete=False) for group_id in late]

    def _take(self, trajectory: Trajectory, offset: int, now: datetime) -> list[Decision]:
        if trajectory.task.split is Split.EVAL:
            return [Dropped(Drop.EVAL)]
        if trajectory.group_id in self._closed and not self._reopens(trajectory):
            return [Dropped(Drop.REVISED_LATE if trajectory.revision else Drop.LATE)]
        group = self._open.get(trajectory.group_id)
        decisions: list[Decision] = []
        if group is None:
            group = self._opened(trajectory, offset, now)
            decisions.append(Opened(offset))
        if not group.is_for(trajectory):
            return [Dropped(Drop.OTHER_TASK)]
        if known := group.members.get(trajectory.rollout_id):
            return [self._again(group, known, trajectory)]
        group.members[trajectory.rollout_id] = Member.of(trajectory)
        complete = len(group.members) >= group.task.samples
        return [*decisions, self._close(trajectory.group_id, complete=True) if complete else Kept()]

    def _reopens(self, trajectory: Trajectory) -> bool:
        """Whether a revision is the first usable one of a rollout that is compared with nobody."""
        return trajectory.revision > 0 and trajectory.group_id in self._unused

    @staticmethod
    def _again(group: _OpenGroup, known: Member, trajectory: Trajectory) -> Dropped:
        """Of several revisions of a rollout the highest is in the group; the other is dropped."""
        before, now = known.revision, trajectory.revision
        if now > before:
            group.members[trajectory.rollout_id] = Member.of(trajectory)
        return Dropped(Drop.DUPLICATE if now == before else Drop.SUPERSEDED)

    def _opened(self, trajectory: Trajectory, offset: int, now: datetime) -> _OpenGroup:
        deadline = now + self._deadline
        group = _OpenGroup(offset, deadline, trajectory.tenant, trajectory.run, trajectory.task)
        self._open[trajectory.group_id] = group
        return group

    def _close(self, group_id: UUID, *, complete: bool) -> ClosedGroup:
        group = self._open.pop(group_id)
        self._closed.add(group_id)
        ordered = sorted(group.members.values(), key=_place)
        self._unused.discard(group_id)
        if group.task.samples == 1 and ordered[0].head().status is TrajectoryStatus.EXCLUDED:
            self._unused.add(group_id)
        return ClosedGroup(group.offset, complete, tuple(ordered))

    def _latest(self, now: datetime) -> datetime:
        self._now = now if self._now is None else max(self._now, now)
        return self._now


def _place(member: Member) -> tuple[int, UUID]:
    return member.index, member.rollout_id
