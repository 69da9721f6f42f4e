"""A bounded memory of what is over: by which late events are told from unknown ones, and feedback finds
the rollout it is about.

A session that goes on after its end is another part of it, with a trajectory of its own.
"""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from leyden_platform.clock import born_at
from leyden_reward.decisions import Closed, Drop, Dropped
from leyden_reward.open_rollout import OpenRollout
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    RewardTerm,
    SignalRecorded,
    Trajectory,
    TrajectoryStatus,
    cause_id,
)

_PARTS = 8
"""Parts of one session that are remembered."""


@dataclass(slots=True)
class ClosedRollout:
    """Where on the log a closed rollout began, and when it ended; its content only where that is kept."""

    offset: int
    at: datetime
    is_session: bool
    by_feedback: bool
    """Whether feedback is its reward, so that late feedback changes it."""
    content: OpenRollout | None = None
    trajectory: Trajectory | None = None
    revision: int = 0


class ClosedRollouts:
    """The last ``capacity`` rollouts that closed; older ones are forgotten."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parts: OrderedDict[UUID, list[ClosedRollout]] = OrderedDict()

    def add(self, rollout_id: UUID, closed: ClosedRollout) -> None:
        """Remember it, as the newest."""
        parts = self._parts.setdefault(rollout_id, [])
        parts.append(closed)
        del parts[:-_PARTS]
        self._parts.move_to_end(rollout_id)
        if len(self._parts) > self._capacity:
            self._parts.popitem(last=False)

    def take_over(self, other: "ClosedRollouts") -> None:
        """Remember also what ``other`` does of rollouts that are not known here."""
        for rollout_id, parts in other._parts.items():
            if rollout_id not in self._parts:
                for part in parts:
                    self.add(rollout_id, part)

    def ended(self, event: EventMessage) -> bool:
        """Whether the event comes after the end of its rollout.

        A completion that was asked for after a session's end does not: the session goes on.
        """
        parts = self._parts.get(event.rollout_id)
        if not parts:
            return False
        last = parts[-1]
        goes_on = last.is_session and isinstance(event, CompletionRecorded) and event.occurred_at > last.at
        return not goes_on

    def by_feedback(self, rollout_id: UUID) -> bool:
        """Whether feedback may be the rollout's reward; it may when the rollout is not remembered."""
        parts = self._parts.get(rollout_id)
        return parts is None or parts[-1].by_feedback

    def begin_of(self, event: SignalRecorded) -> int | None:
        """The offset at which what the signal is about began; None when that is not remembered."""
        parts = self._parts.get(event.rollout_id)
        if not parts:
            return None
        born = None if event.completion_id is None else birth(event.completion_id)
        if born is None:
            return parts[-1].offset
        about = next((part for part in parts if part.at >= born), None)
        beyond_memory = about is parts[0] and len(parts) == _PARTS
        return None if about is None or beyond_memory else about.offset

    def revise(
        self, event: SignalRecorded, term: RewardTerm, offset: int, *, counting: bool
    ) -> Closed | Dropped:
        """The rollout with one more signal, as its next revision; its content must be kept here.

        One that is not ``counting``, such as a comment, is kept for revisions to come and makes none.
        """
        part = self._about(event)
        if isinstance(part, Dropped):
            return part
        assert part.content is not None
        assert part.trajectory is not None
        if (event.tenant, event.run) != (part.trajectory.tenant, part.trajectory.run):
            return Dropped(Drop.OTHER_TENANT)
        if not part.content.is_new(event):
            odd = part.content.contradicts(event)
            return Dropped(Drop.CONTRADICTORY if odd else Drop.DUPLICATE)
        part.content.add_signal(term, event.completion_id)
        counts = term.weight or (counting and part.by_feedback)
        if part.trajectory.status is TrajectoryStatus.EXCLUDED or not counts:
            return Dropped(Drop.LATE)
        part.revision += 1
        changes = {
            "trajectory_id": cause_id("revision", part.trajectory.trajectory_id, event.event_id),
            "revision": part.revision,
            "steps": part.content.steps(),
        }
        revised = part.trajectory.model_copy(update=changes)
        return Closed(offset, revised, part.content.signals(), part.content.nbytes)

    def _about(self, event: SignalRecorded) -> ClosedRollout | Dropped:
        parts = [part for part in self._parts.get(event.rollout_id, ()) if part.content is not None]
        if not parts:
            return Dropped(Drop.UNKNOWN_ROLLOUT)
        if event.completion_id is None:
            return parts[-1]
        made = (part for part in reversed(parts) if part.content and part.content.has(event.completion_id))
        return next(made, Dropped(Drop.UNKNOWN_COMPLETION))


def birth(identity: UUID) -> datetime | None:
    """When a thing came to be, if its id is one that says so."""
    return born_at(identity) if identity.version == 7 else None
