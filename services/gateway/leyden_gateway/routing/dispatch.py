"""Sending a call to a server: choose, send, and send again while nothing was sampled.

The first try goes straight through; only a failure enters the machinery of retries.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple
from uuid import UUID

import stamina

from leyden_gateway import metrics
from leyden_gateway.errors import MalformedAnswer, UpstreamTimedOut, UpstreamUnreachable
from leyden_gateway.exchange.training_mode import Prepared
from leyden_gateway.recording.record import Call
from leyden_gateway.routing.choice import Choice
from leyden_gateway.routing.externals import External
from leyden_gateway.routing.failures import UNREACHABLE, Failure, dropped_model, verdict
from leyden_gateway.routing.hedge import first_begun
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.routing.router import Router, Where
from leyden_gateway.routing.settings import RoutingSettings
from leyden_gateway.upstream.client import Answer, ReplicaUnavailable, Upstream, UpstreamRefused


class _Begun(NamedTuple):
    """An answer, whose it is, and when it was asked for."""

    answer: Answer
    choice: Choice
    sent: float


class _ModelDropped(Exception):
    """The replica no longer has the version it was chosen for: look again and choose anew."""


@dataclass(slots=True)
class _Tries:
    """One call, and what its tries learnt."""

    call: Call
    prepared: Prepared
    where: Where
    rollout_id: UUID
    avoid: frozenset[str] = frozenset()
    re_resolved: bool = False
    overloaded: bool = False


class Dispatcher:
    """Finds a server that begins to answer."""

    def __init__(
        self,
        router: Router,
        replicas: Replicas,
        upstream: Upstream,
        routing: RoutingSettings,
        *,
        attempts: int,
    ) -> None:
        self._router, self._replicas, self._upstream = router, replicas, upstream
        self._routing, self._attempts = routing, attempts

    async def open(self, call: Call, prepared: Prepared, external: External | None = None) -> Answer:
        """An answer that has begun; ``call.choice`` says whose, ``call.queued_s`` how long it had to wait.

        Raises ``UpstreamRefused`` with the last server's words, ``UpstreamUnreachable`` when none had any,
        and what ``External.check``, ``Router.wait`` and ``Upstream.send`` raise.
        """
        if external is not None:
            external.check(prepared.path)
        where = call.policy_ref if external is None else external
        tries = _Tries(call, prepared, where, call.attribution.rollout_id)
        try:
            return await self._try(tries)
        except (ReplicaUnavailable, _ModelDropped) as failure:
            first = failure
        try:
            return await self._try_again(tries, first)
        except ReplicaUnavailable as error:
            raise error.refusal or UpstreamUnreachable(
                f"no server took the call in {self._attempts} tries: {error}"
            ) from None

    def report(self, choice: Choice | None, ok: bool) -> None:
        """Before it is closed: an answer came to its end, or broke off through the server's fault."""
        if choice is not None and choice.slot is not None:
            choice.slot.settle(ok, "" if ok else "its answer broke off")

    async def _try_again(self, tries: _Tries, failure: Exception) -> Answer:
        """The tries after the first, whose failure is the first thing that the retries see."""
        async for attempt in stamina.retry_context(
            on=(ReplicaUnavailable, _ModelDropped),
            attempts=self._attempts,
            timeout=None,
            wait_initial=0.1,
            wait_max=2.0,
            wait_jitter=0.1,
        ):
            with attempt:
                if attempt.num == 1:
                    raise failure
                return await self._try(tries)
        raise AssertionError("stamina returns or raises")

    async def _try(self, tries: _Tries) -> Answer:
        choice = self._router.take(tries.where, tries.rollout_id, tries.avoid) or await self._wait(tries)
        try:
            return await self._send(tries, choice)
        except UpstreamRefused as refusal:
            if refusal.status == 404:
                self._look_for_dropped(tries, choice, refusal)
            if refusal.status != 429 or tries.overloaded:
                raise
            tries.overloaded = True
            other = self._take_other(tries, choice)
            if other is None:
                raise
        metrics.RETRIES.labels(*choice.served, "429").inc()
        return await self._send(tries, other)

    def _take_other(self, tries: _Tries, than: Choice) -> Choice | None:
        name = than.slot.lane.name if than.slot else than.replica
        return self._router.take_other(tries.where, tries.rollout_id, tries.avoid | {name})

    async def _wait(self, tries: _Tries) -> Choice:
        started = perf_counter()
        try:
            return await self._router.wait(tries.where, tries.rollout_id, tries.avoid)
        finally:
            tries.call.queued_s += perf_counter() - started

    def _look_for_dropped(self, tries: _Tries, choice: Choice, refusal: UpstreamRefused) -> None:
        """Raise ``_ModelDropped``, once, when the replica lost the version it was chosen for."""
        if choice.version is None or tries.re_resolved or not dropped_model(refusal, choice.model):
            return
        metrics.RETRIES.labels(*choice.served, "model_dropped").inc()
        tries.re_resolved = True
        self._replicas.drop_model(choice.replica, choice.model)
        raise _ModelDropped from refusal

    async def _send(self, tries: _Tries, choice: Choice) -> Answer:
        call, hedge_after_s = tries.call, self._routing.hedge_after_s
        if hedge_after_s is None or isinstance(tries.where, External):
            begun = await self._send_once(tries, choice)
        else:
            begun = await self._send_hedged(tries, choice, hedge_after_s)
        call.choice, call.sent = begun.choice, begun.sent
        return begun.answer

    async def _send_hedged(self, tries: _Tries, choice: Choice, after_s: float) -> _Begun:
        """Two servers may sample; the one that begins first is recorded, the other's connection is closed."""

        def second() -> "Coroutine[Any, Any, _Begun] | None":
            other = self._take_other(tries, choice)
            if other is None:
                metrics.HEDGES.labels("no_other").inc()
            return self._send_once(tries, other) if other is not None else None

        begun, outcome = await first_begun(
            self._send_once(tries, choice), second, after_s=after_s, discard=lambda late: late.answer.close()
        )
        if outcome != "alone":
            metrics.HEDGES.labels(outcome).inc()
        return begun

    async def _send_once(self, tries: _Tries, choice: Choice) -> _Begun:
        slot, sent, answer = choice.slot, perf_counter(), None
        assert slot is not None
        tries.call.choice, tries.call.sent = choice, sent
        try:
            answer = await self._request(tries, choice)
        except (ReplicaUnavailable, UpstreamRefused, UpstreamTimedOut, MalformedAnswer) as failure:
            self._learn(tries, choice, failure)
            raise
        finally:
            if answer is None:
                slot.release()
        slot.begin()
        answer.on_close = slot.release
        return _Begun(answer, choice, sent)

    async def _request(self, tries: _Tries, choice: Choice) -> Answer:
        prepared, where = tries.prepared, tries.where
        if not isinstance(where, External):
            body = prepared.encode(choice.model)
            return await self._upstream.send(choice.replica, prepared.path, body, tries.call.trace)
        sending = self._upstream.send(
            where.base_url,
            where.path(prepared.path),
            prepared.encode(where.model),
            where.headers(),
        )
        if where.begin_timeout_s is None:
            return await sending
        try:
            async with asyncio.timeout(where.begin_timeout_s):
                return await sending
        except TimeoutError:
            raise UpstreamTimedOut(
                f"{where.policy} did not begin to answer within {where.begin_timeout_s:g} s"
            ) from None

    def _learn(self, tries: _Tries, choice: Choice, failure: Failure) -> None:
        assert choice.slot is not None
        lane, found = choice.slot.lane, verdict(failure)
        choice.slot.settle(found.ok, str(failure))
        lane.rest(min(found.rest_s, self._routing.retry_after_max_s))
        if isinstance(failure, ReplicaUnavailable):
            metrics.RETRIES.labels(*choice.served, failure.reason).inc()
            tries.avoid |= {lane.name}
            if failure.reason in UNREACHABLE and not isinstance(tries.where, External):
                self._replicas.mark_down(lane.url)
