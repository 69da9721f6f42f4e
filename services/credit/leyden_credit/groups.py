"""From trajectories to closed groups: a pure state machine over one partition of the log.

A group is every rollout of one task. It closes when all have arrived, scored or excluded, or at a deadline
with those that did.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from leyden_platform.messaging.recent import RecentIds
from leyden_schemas import Split, Trajectory


class Drop(StrEnum):
    """Why a trajectory is not taken into a group."""

    EVAL = "eval"
    DUPLICATE = "duplicate"
    LATE = "late"


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
class ClosedGroup:
    """What arrived of a group, in order of the rollouts' index; ``complete`` when that is all."""

    offset: int
    complete: bool
    trajectories: tuple[Trajectory, ...]


Decision = Opened | Kept | Dropped | ClosedGroup


@dataclass(slots=True)
class _OpenGroup:
    offset: int
    deadline: datetime
    size: int
    members: dict[UUID, Trajectory] = field(default_factory=dict)


class Groups:
    """The open groups of one partition, and a bounded memory of closed ones. Times are those of the log."""

    def __init__(self, *, deadline_s: float = 600.0, remember: int = 10_000) -> None:
        self._deadline = timedelta(seconds=deadline_s)
        self._open: dict[UUID, _OpenGroup] = {}
        self._closed = RecentIds(remember)

    def __len__(self) -> int:
        return len(self._open)

    def take(self, trajectory: Trajectory, offset: int, now: datetime) -> list[Decision]:
        """What one trajectory, read at ``offset`` at the time ``now``, changes."""
        if trajectory.task.split is Split.EVAL:
            return [Dropped(Drop.EVAL)]
        if trajectory.group_id in self._closed:
            return [Dropped(Drop.LATE)]
        group = self._open.get(trajectory.group_id)
        decisions: list[Decision] = []
        if group is None:
            group = _OpenGroup(offset, now + self._deadline, trajectory.task.samples)
            self._open[trajectory.group_id] = group
            decisions.append(Opened(offset))
        if trajectory.rollout_id in group.members:
            return [Dropped(Drop.DUPLICATE)]
        group.members[trajectory.rollout_id] = _slim(trajectory)
        complete = len(group.members) >= group.size
        return [*decisions, self._close(trajectory.group_id, complete=True) if complete else Kept()]

    def overdue(self, now: datetime) -> list[ClosedGroup]:
        """Close the groups that waited long enough, with what arrived."""
        late = [group_id for group_id, group in self._open.items() if group.deadline <= now]
        return [self._close(group_id, complete=False) for group_id in late]

    def _close(self, group_id: UUID, *, complete: bool) -> ClosedGroup:
        group = self._open.pop(group_id)
        self._closed.add(group_id)
        ordered = sorted(group.members.values(), key=lambda trajectory: trajectory.index)
        return ClosedGroup(group.offset, complete, tuple(ordered))


def _slim(trajectory: Trajectory) -> Trajectory:
    """Without the conversation, which no estimator reads; open groups would otherwise hold all of it."""
    steps = [step.model_copy(update={"request": {}, "response": None}) for step in trajectory.steps]
    return trajectory.model_copy(update={"steps": steps, "output": None})
