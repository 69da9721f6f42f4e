"""Sending a call to a replica: route, send, and send again while nothing was sampled."""

from dataclasses import dataclass, field
from time import perf_counter

import stamina

from leyden_gateway import metrics
from leyden_gateway.errors import UpstreamUnreachable
from leyden_gateway.exchange.training_mode import Prepared
from leyden_gateway.recording.record import Call
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.routing.router import Router
from leyden_gateway.upstream.client import (
    Answer,
    ReplicaUnavailable,
    Upstream,
    UpstreamRefused,
)
from leyden_platform.telemetry import trace_headers


class _ModelDropped(Exception):
    """The replica no longer has the version it was chosen for: look again and choose anew."""


@dataclass(slots=True)
class _Tries:
    """What the tries of one call learnt."""

    avoid: set[str] = field(default_factory=set)
    re_resolved: bool = False


class Dispatcher:
    """Finds a replica that begins to answer."""

    def __init__(self, router: Router, replicas: Replicas, upstream: Upstream, *, attempts: int) -> None:
        self._router, self._replicas, self._upstream = router, replicas, upstream
        self._attempts = attempts

    async def open(self, call: Call, prepared: Prepared) -> Answer:
        """An answer that has begun; ``call.choice`` says whose.

        Raises ``UpstreamRefused`` with the last replica's words, ``UpstreamUnreachable`` when none had any,
        and what ``Router.route`` raises.
        """
        tries = _Tries()
        try:
            async for attempt in stamina.retry_context(
                on=(ReplicaUnavailable, _ModelDropped),
                attempts=self._attempts,
                timeout=None,
                wait_initial=0.1,
                wait_max=2.0,
                wait_jitter=0.1,
            ):
                with attempt:
                    return await self._try(call, prepared, tries)
        except ReplicaUnavailable as error:
            raise error.refusal or UpstreamUnreachable(
                f"no replica took the call in {self._attempts} tries: {error}"
            ) from None
        raise AssertionError("stamina returns or raises")

    async def _try(self, call: Call, prepared: Prepared, tries: _Tries) -> Answer:
        choice = await self._router.route(call.policy_ref, call.attribution.rollout_id, tries.avoid)
        call.choice = choice
        call.sent = perf_counter()
        try:
            return await self._upstream.send(
                choice.replica, prepared.path, prepared.encode(choice.model), trace_headers()
            )
        except ReplicaUnavailable as error:
            metrics.RETRIES.labels(error.reason).inc()
            tries.avoid.add(choice.replica)
            if error.reason in ("connection", "connect_timeout"):
                self._replicas.mark_down(choice.replica)
            raise
        except UpstreamRefused as refusal:
            if refusal.status != 404 or tries.re_resolved:
                raise
            metrics.RETRIES.labels("model_dropped").inc()
            tries.re_resolved = True
            self._replicas.drop_model(choice.replica, choice.model)
            raise _ModelDropped from refusal
