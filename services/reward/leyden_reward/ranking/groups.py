"""Rollouts that wait for the others of their group: a pure state machine over one partition.

A group closes when all its rollouts are there, scored or excluded, or at a deadline with those that are.
A revision takes the place of its rollout while the group waits; as it always comes after the rollout, one of
a rollout that is not in a waiting group comes too late. Times are those of the log.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from leyden_platform.messaging.recent import RecentIds
from leyden_reward.scoring import is_pending
from leyden_schemas import Trajectory


@dataclass(frozen=True, slots=True)
class Opened:
    """A group's first rollout; the log is needed from ``offset`` on until the group is published."""

    offset: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """The rollout is known: a replay after a crash."""


@dataclass(frozen=True, slots=True)
class Late:
    """The group was closed without this rollout, which therefore cannot be compared."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class RevisedLate:
    """A rollout that was compared before: what it was worth then stands."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Of another tenant, run or task than the group whose id it has."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rollouts of a group, in order of their index."""

    offset: int
    rollouts: tuple[Trajectory, ...]


Decision = Opened | Repeated | Late | RevisedLate | Foreign | Gathered


@dataclass(slots=True)
class _Waiting:
    offset: int
    deadline: datetime
    first: Trajectory
    rollouts: dict[UUID, Trajectory] = field(default_factory=dict)

    def is_for(self, other: Trajectory) -> bool:
        first = self.first
        return (first.tenant, first.run, first.task) == (other.tenant, other.run, other.task)


class WaitingGroups:
    """The open groups of one partition, and a bounded memory of what is over."""

    def __init__(self, *, deadline_s: float = 300.0, remember: int = 10_000) -> None:
        self._deadline = timedelta(seconds=deadline_s)
        self._waiting: dict[UUID, _Waiting] = {}
        self._closed, self._seen = RecentIds(remember), RecentIds(remember)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, trajectory: Trajectory, offset: int, now: datetime) -> list[Decision]:
        """What one trajectory, read at ``offset`` at the time ``now``, changes."""
        return [*self.overdue(now), *self._take(trajectory, offset, now)]

    def overdue(self, now: datetime) -> list[Decision]:
        """Close the groups that waited long enough, with what arrived."""
        late = [group_id for group_id, group in self._waiting.items() if group.deadline <= now]
        return [self._close(group_id) for group_id in late]

    def _take(self, trajectory: Trajectory, offset: int, now: datetime) -> list[Decision]:
        if trajectory.trajectory_id in self._seen:
            return [Repeated()]
        self._seen.add(trajectory.trajectory_id)
        group = self._waiting.get(trajectory.group_id)
        if trajectory.revision and (group is None or trajectory.rollout_id not in group.rollouts):
            return [RevisedLate() if is_pending(trajectory) else Late(trajectory)]
        if trajectory.group_id in self._closed:
            return [Late(trajectory)]
        decisions: list[Decision] = []
        if group is None:
            deadline = now + self._deadline
            group = self._waiting[trajectory.group_id] = _Waiting(offset, deadline, trajectory)
            decisions.append(Opened(offset))
        if not group.is_for(trajectory):
            return [Foreign(trajectory)]
        group.rollouts[trajectory.rollout_id] = trajectory
        if len(group.rollouts) >= trajectory.task.samples:
            decisions.append(self._close(trajectory.group_id))
        return decisions

    def _close(self, group_id: UUID) -> Gathered:
        group = self._waiting.pop(group_id)
        self._closed.add(group_id)
        ordered = sorted(group.rollouts.values(), key=lambda rollout: (rollout.index, rollout.rollout_id))
        return Gathered(group.offset, tuple(ordered))
