"""From a policy reference to a replica, waiting (bounded) while no replica serves an acceptable version."""

import asyncio
from collections.abc import Set
from uuid import UUID

from leyden_gateway import metrics
from leyden_gateway.errors import ModelNotFound, ModelUnavailable
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.choice import Choice, Unknown, choose
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas


class Router:
    """Applies the pure decision of ``routing`` to the tables as they are now, and as they become."""

    def __init__(
        self, models: ModelsTable, replicas: Replicas, changes: Changes, *, park_timeout_s: float
    ) -> None:
        self._models, self._replicas, self._changes = models, replicas, changes
        self._park_timeout_s = park_timeout_s

    async def route(self, ref: str, rollout_id: UUID, avoid: Set[str]) -> Choice:
        """Where the call goes, at once or after parking. Raises ``ModelNotFound`` or ``ModelUnavailable``."""
        if choice := self._decide(ref, rollout_id, avoid):
            return choice
        return await self._park(ref, rollout_id, avoid)

    def _decide(self, ref: str, rollout_id: UUID, avoid: Set[str]) -> Choice | None:
        target = self._models.table.target(ref)
        if isinstance(target, Unknown):
            if self._models.caught_up:
                raise ModelNotFound(target.why)
            return None
        return choose(target, self._replicas.states(), rollout_id, avoid)

    async def _park(self, ref: str, rollout_id: UUID, avoid: Set[str]) -> Choice:
        outcome = "gone"
        try:
            with metrics.PARKED.track_inprogress(), self._replicas.urgently():
                async with asyncio.timeout(self._park_timeout_s) as parking:
                    while True:
                        change = self._changes.next()
                        if choice := self._decide(ref, rollout_id, avoid):
                            outcome = "served"
                            return choice
                        await change.wait()
        except ModelNotFound:
            outcome = "not_found"
            raise
        except TimeoutError:
            assert parking.expired()
            outcome = "timed_out"
            raise ModelUnavailable(self._why(ref)) from None
        finally:
            metrics.PARK_WAITS.labels(outcome).inc()

    def _why(self, ref: str) -> str:
        states = self._replicas.states()
        served = sorted({model for state in states if state.healthy for model in state.models})
        up = sum(state.healthy for state in states)
        return (
            f"no replica served {ref} within {self._park_timeout_s:g} s: {up} of {len(states)} replicas "
            f"answer, they serve {', '.join(served[:10]) or 'nothing'}"
        )
