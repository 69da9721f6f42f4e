"""From a model reference to room on a server, at once where possible, else waiting: bounded and in turn.

What is missing is waited for: a version that no replica serves yet, a server that may be used again, room.
"""

import asyncio
from collections.abc import Sequence, Set
from uuid import UUID

from leyden_gateway import metrics
from leyden_gateway.errors import ApiError, ModelNotFound, ModelUnavailable, ReplicasBusy, ReplicasFailing
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.choice import Choice, Exact, Unknown, UpTo, best, policy_name
from leyden_gateway.routing.externals import External
from leyden_gateway.routing.lane import Lane, Waiter
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.plan import Plan, candidates, least_loaded, preferred
from leyden_gateway.routing.replicas import Replicas

Where = str | External
"""A policy reference, or an external model."""


class Router:
    """Applies the pure decisions of this package to the tables as they are now, and as they become."""

    def __init__(
        self, models: ModelsTable, replicas: Replicas, changes: Changes, *, park_timeout_s: float
    ) -> None:
        self._models, self._replicas, self._changes = models, replicas, changes
        self._park_timeout_s = park_timeout_s
        self._plans: dict[Where, Plan] = {}
        self._planned_at = -1

    def take(self, where: Where, rollout_id: UUID, avoid: Set[str] = frozenset()) -> Choice | None:
        """Room on a server for a rollout's call, if there is any now. Raises ``ModelNotFound``.

        The best version wins; among its servers the rollout's own; if that is full, the least loaded one.
        Names in ``avoid`` are used only if there are no others.
        """
        plan = self._plan(where).part(rollout_id)
        lanes = candidates(plan.lanes, avoid) if avoid else plan.lanes
        if not lanes:
            return None
        own = preferred(lanes, rollout_id)
        if own.free():
            return plan.choice(own.take())
        if (other := least_loaded(lanes)) is None:
            return None
        metrics.OVERFLOWED.labels(own.name).inc()
        return plan.choice(other.take())

    def take_other(self, where: Where, rollout_id: UUID, avoid: Set[str]) -> Choice | None:
        """Like ``take``, but never one of ``avoid``."""
        plan = self._plan(where).part(rollout_id)
        lane = least_loaded([lane for lane in plan.lanes if lane.name not in avoid])
        return plan.choice(lane.take()) if lane is not None else None

    async def wait(self, where: Where, rollout_id: UUID, avoid: Set[str] = frozenset()) -> Choice:
        """``take``, waiting for as long as calls may be parked.

        Raises ``ModelNotFound``; after that time ``ModelUnavailable``, ``ReplicasFailing`` or
        ``ReplicasBusy``.
        """
        outcome, policy = "gone", self._label(where)
        try:
            with (
                metrics.PARKED.labels(policy).track_inprogress(),
                metrics.QUEUE_SECONDS.labels(policy).time(),
            ):
                async with asyncio.timeout(self._park_timeout_s) as parking:
                    choice = await self._wait(where, rollout_id, avoid)
            outcome = "served"
            return choice
        except ModelNotFound:
            outcome = "not_found"
            raise
        except TimeoutError:
            assert parking.expired()
            outcome = "timed_out"
            raise self._why(where, rollout_id) from None
        finally:
            metrics.PARK_WAITS.labels(policy, outcome).inc()

    def _label(self, where: Where) -> str:
        """The policy as metrics name it: before the table has been read, callers may make any up."""
        if isinstance(where, External):
            return where.policy
        policy = policy_name(where)
        return policy if policy in self._models.table.versions or self._models.caught_up else ""

    async def _wait(self, where: Where, rollout_id: UUID, avoid: Set[str]) -> Choice:
        while True:
            if choice := self.take(where, rollout_id, avoid):
                return choice
            plan = self._plan(where).part(rollout_id)
            if not plan.serving and isinstance(where, str):
                with self._replicas.urgently():
                    turn = await self._turn((), plan)
            else:
                turn = await self._turn(candidates(plan.lanes, avoid), plan)
            if turn is not None:
                return turn

    async def _turn(self, lanes: Sequence[Lane], plan: Plan) -> Choice | None:
        """Room in one of ``lanes`` when it is this call's turn, or None when the tables have changed."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._changes.join(waiter)
        for lane in lanes:
            lane.join(waiter)
        try:
            slot = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (given := waiter.result()):
                given.release()
            raise
        finally:
            self._changes.leave(waiter)
            for lane in lanes:
                lane.leave(waiter)
        return plan.choice(slot) if slot else None

    def _plan(self, where: Where) -> Plan:
        if self._planned_at != self._changes.count:
            self._plans.clear()
            self._planned_at = self._changes.count
        plan = self._plans.get(where)
        return plan if plan is not None else self._make(where)

    def _make(self, where: Where) -> Plan:
        """The plan of a reference, kept unless the reference is not known. Raises ``ModelNotFound``."""
        if isinstance(where, External):
            plan = where.plan()
        else:
            table = self._models.table
            target = table.target(where)
            if isinstance(target, Unknown):
                if self._models.caught_up:
                    raise ModelNotFound(target.why)
                return Plan(policy_name(where), None)
            split = tuple((end, self._serving(exact)) for end, exact in table.canaries(where))
            plan = self._serving(target, split)
        self._plans[where] = plan
        return plan

    def _serving(self, target: Exact | UpTo, canaries: tuple[tuple[float, Plan], ...] = ()) -> Plan:
        found = best(target, self._replicas.states())
        if found is None:
            return Plan(target.policy, None, canaries=canaries)
        version, urls = found
        serving = tuple(self._replicas.lane(url) for url in urls)
        usable = tuple(lane for lane in serving if lane.usable)
        return Plan(target.policy, version, serving, usable, canaries)

    def _why(self, where: Where, rollout_id: UUID) -> ApiError:
        plan = self._plan(where).part(rollout_id)
        what = where if isinstance(where, str) else where.policy
        waited = f"within {self._park_timeout_s:g} s"
        if plan.lanes:
            limits = ", ".join(f"{lane.name} ({lane.limit})" for lane in plan.lanes[:10])
            return ReplicasBusy(f"every server of {what} stayed at its limit of calls {waited}: {limits}")
        if plan.serving:
            failures = "; ".join(_trouble(lane) for lane in plan.serving[:10])
            return ReplicasFailing(f"no server of {what} could be used {waited}: {failures}")
        return self._unserved(what, waited)

    def _unserved(self, what: str, waited: str) -> ModelUnavailable:
        states = self._replicas.states()
        served = sorted({model for state in states if state.healthy for model in state.models})
        up = sum(state.healthy for state in states)
        return ModelUnavailable(
            f"no replica served {what} {waited}: {up} of {len(states)} replicas "
            f"answer, they serve {', '.join(served[:10]) or 'nothing'}"
        )


def _trouble(lane: Lane) -> str:
    if lane.draining:
        return f"{lane.name} is being drained"
    return f"{lane.name} keeps failing, last: {lane.last_failure or 'nothing known'}"
