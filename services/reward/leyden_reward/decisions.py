"""What an event changes, as values: everything that the assembly of rollouts can decide."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from leyden_schemas import RewardTerm, Trajectory


class Drop(StrEnum):
    """Why an event changed nothing."""

    UNKNOWN_ROLLOUT = "unknown_rollout"
    LATE = "late"
    DUPLICATE = "duplicate"
    CONTRADICTORY = "contradictory"
    STALE_ATTEMPT = "stale_attempt"
    SUPERSEDED = "superseded"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN_COMPLETION = "unknown_completion"
    SIGNAL_NOT_FINITE = "signal_not_finite"
    OTHER_TENANT = "other_tenant"
    NOT_A_SESSION = "not_a_session"
    NOT_A_CONVERSATION = "not_a_conversation"
    NOT_READABLE = "not_readable"


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
    """A rollout is over: its trajectory, without rewards, and the signals given to it as a whole.

    ``offset`` is where the log is needed from until it is published: of its first event, or of the late
    signal that made a revision of it.
    """

    offset: int
    trajectory: Trajectory
    signals: tuple[RewardTerm, ...] = ()
    nbytes: int = 0
    """How much was held of it, packed."""


@dataclass(frozen=True, slots=True)
class Revisit:
    """Feedback on a rollout that is not in memory any more: its events, from ``since`` on, say which.

    ``offset`` is that of the feedback itself; the log is needed from there until a revision is published.
    """

    rollout_id: UUID
    since: int | datetime
    offset: int


Decision = Opened | Kept | KeptInPart | Dropped | Closed | Revisit
