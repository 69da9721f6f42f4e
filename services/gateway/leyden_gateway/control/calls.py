"""The calls in flight, for an operator who asks what the gateway is busy with."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

from leyden_schemas import JsonObject

OLDEST = 20
"""Calls that are listed one by one."""


@dataclass(frozen=True, slots=True)
class CallInFlight:
    """One call, by what an operator would look for."""

    completion_id: UUID
    rollout_id: UUID
    protocol: str
    tenant: str
    started: float


class Calls:
    """Who is being served; ``begin`` and ``end`` are all a call pays."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._calls: dict[UUID, CallInFlight] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, completion_id: UUID, rollout_id: UUID, protocol: str, tenant: str) -> None:
        """A call was admitted."""
        self._calls[completion_id] = CallInFlight(completion_id, rollout_id, protocol, tenant, self._now())

    def end(self, completion_id: UUID) -> None:
        """A call has ended; one that never began is nothing."""
        self._calls.pop(completion_id, None)

    def describe(self) -> JsonObject:
        """Counts by protocol and tenant with the oldest's age, and the oldest calls of all."""
        now = self._now()
        groups: dict[tuple[str, str], list[CallInFlight]] = {}
        for call in self._calls.values():
            groups.setdefault((call.protocol, call.tenant), []).append(call)
        return {
            "in_flight": len(self._calls),
            "by": [_group(*who, calls, now) for who, calls in sorted(groups.items())],
            "oldest": [_one(call, now) for call in sorted(self._calls.values(), key=_started)[:OLDEST]],
        }


def _started(call: CallInFlight) -> float:
    return call.started


def _group(protocol: str, tenant: str, calls: list[CallInFlight], now: float) -> JsonObject:
    oldest_s = now - min(call.started for call in calls)
    return {"protocol": protocol, "tenant": tenant, "calls": len(calls), "oldest_s": round(oldest_s, 3)}


def _one(call: CallInFlight, now: float) -> JsonObject:
    return {
        "completion_id": str(call.completion_id),
        "rollout_id": str(call.rollout_id),
        "protocol": call.protocol,
        "tenant": call.tenant,
        "age_s": round(now - call.started, 3),
    }
