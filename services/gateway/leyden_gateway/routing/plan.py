"""What a model reference means at this moment: the servers that answer it, and which of them takes a call."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from uuid import UUID

from leyden_gateway.routing.choice import Choice
from leyden_gateway.routing.lane import Lane, Slot
from leyden_gateway.routing.split import position


@dataclass(frozen=True, slots=True)
class Plan:
    """Valid until the tables change. ``lanes`` are those of ``serving`` that may be used."""

    policy: str
    version: int | None
    serving: tuple[Lane, ...] = ()
    lanes: tuple[Lane, ...] = ()
    canaries: tuple[tuple[float, "Plan"], ...] = ()
    """The upper end of each canary's part of [0, 1), and where its calls go."""

    def part(self, rollout_id: UUID) -> "Plan":
        """The plan of this rollout's part of the traffic; a canary that nobody can serve is passed over."""
        if self.canaries:
            here = position(rollout_id, self.policy)
            taken = next((plan for end, plan in self.canaries if here < end), self)
            return taken if taken.lanes else self
        return self

    def choice(self, slot: Slot) -> Choice:
        """The choice of a server in which a call has room."""
        return Choice(slot.lane.url, self.policy, self.version, slot)


def candidates(lanes: Sequence[Lane], avoid: Set[str]) -> Sequence[Lane]:
    """Those not to be avoided, if there are any."""
    return [lane for lane in lanes if lane.name not in avoid] or lanes


def preferred(lanes: Sequence[Lane], rollout_id: UUID) -> Lane:
    """The rendezvous hash's choice: turns meet their prefix cache, a lost lane moves only its own share."""
    if len(lanes) == 1:
        return lanes[0]
    key = rollout_id.bytes
    best, most = lanes[0], b""
    for lane in lanes:
        weight = lane.weight(key)
        if weight > most:
            best, most = lane, weight
    return best


def least_loaded(lanes: Sequence[Lane]) -> Lane | None:
    """The one with room that holds the smallest share of its limit; None when all are full."""
    roomy = [lane for lane in lanes if lane.free()]
    return min(roomy, key=lambda lane: lane.in_flight / lane.limit, default=None)
