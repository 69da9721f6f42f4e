"""What each replica serves right now: polled, and looked at again as soon as something suggests a change."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from leyden_gateway import metrics
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.choice import ReplicaState
from leyden_gateway.routing.lane import Lane
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import ReplicaUnavailable, Upstream

log = structlog.get_logger(__name__)

EXPECTING_S = 15.0
"""How long after a models event replicas are polled at the urgent pace: loading weights takes a while."""


class UnknownReplica(LookupError):
    """No replica has this base URL; the text names those there are."""


@dataclass(frozen=True, slots=True)
class ReplicaDescription:
    """One replica, as an operator sees it."""

    url: str
    healthy: bool
    models: list[str]
    in_flight: int
    limit: int
    waiting: int
    """Calls that wait for room here, among other places perhaps."""
    breaker: str
    """``closed``, ``half_open`` or ``open``."""
    draining: bool
    resting: bool
    """Whether it asked, with Retry-After, to be left alone for a moment."""
    last_failure: str


class Replicas:
    """A component that keeps one ``ReplicaState`` and one ``Lane`` per replica."""

    def __init__(self, settings: GatewaySettings, upstream: Upstream, changes: Changes) -> None:
        self.name = "replicas"
        self._settings, self._upstream, self._changes = settings, upstream, changes
        self._states = {url: ReplicaState(url) for url in settings.replicas}
        routing = settings.routing
        self._lanes = {
            url: Lane(
                url,
                limit=routing.replica_concurrency,
                rules=routing.breaker_rules(),
                on_change=changes.announce,
            )
            for url in settings.replicas
        }
        self._look_now = asyncio.Event()
        self._looked = False
        self._waiting = 0
        self._expecting_until = 0.0

    def states(self) -> list[ReplicaState]:
        """Every replica as last seen."""
        return list(self._states.values())

    def lane(self, url: str) -> Lane:
        """The way into a replica. Raises ``UnknownReplica``."""
        try:
            return self._lanes[url]
        except KeyError:
            raise UnknownReplica(
                f"no replica has the base URL {url!r}; there are: {', '.join(sorted(self._lanes))}"
            ) from None

    def drain(self, url: str) -> None:
        """Send no new calls there, until ``undrain``; calls in hand finish. Raises ``UnknownReplica``."""
        self._drain(url, draining=True)

    def undrain(self, url: str) -> None:
        """Send calls there again. Raises ``UnknownReplica``."""
        self._drain(url, draining=False)

    def _drain(self, url: str, *, draining: bool) -> None:
        self.lane(url).drain(draining)
        metrics.REPLICA_DRAINING.labels(url).set(draining)
        log.info("replica_draining" if draining else "replica_undrained", replica=url)

    def describe(self) -> list[ReplicaDescription]:
        """Every replica, for the operator's listing."""
        return [_described(self._states[url], lane) for url, lane in self._lanes.items()]

    def not_ready(self) -> str | None:
        """Ready after the first look; replicas that are down then are waited for by parking, not here."""
        return None if self._looked else "has not looked at the replicas yet"

    def expect_change(self) -> None:
        """A model was announced: look now, and often for a while."""
        self._expecting_until = asyncio.get_running_loop().time() + EXPECTING_S
        self._look_now.set()

    @contextlib.contextmanager
    def urgently(self) -> Iterator[None]:
        """Look often while inside: somebody waits for what replicas serve."""
        self._waiting += 1
        self._look_now.set()
        try:
            yield
        finally:
            self._waiting -= 1

    def mark_down(self, url: str) -> None:
        """A call could not reach the replica: do not use it before it answers a look."""
        self._set(replace(self._states[url], healthy=False))
        self._look_now.set()

    def drop_model(self, url: str, model: str) -> None:
        """A call learnt that the replica no longer serves ``model``."""
        state = self._states[url]
        self._set(replace(state, models=state.models - {model}))
        self._look_now.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at all replicas at once, again and again, until ``stop``."""
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            self._look_now.clear()
            await asyncio.gather(*(self._look(url) for url in self._states))
            self._looked = True
            await self._pause(stopping)

    async def _pause(self, stopping: "asyncio.Task[bool]") -> None:
        """The polling interval; cut short by ``stop``, and to the urgent one when somebody starts waiting."""
        await asyncio.wait([stopping], timeout=self._settings.poll_urgent_s)
        calm = not self._waiting and asyncio.get_running_loop().time() >= self._expecting_until
        if calm and not stopping.done() and not self._look_now.is_set():
            woken = asyncio.create_task(self._look_now.wait())
            rest = self._settings.poll_interval_s
            await asyncio.wait([stopping, woken], timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()

    async def _look(self, url: str) -> None:
        try:
            models = await self._upstream.models(url, timeout_s=self._settings.poll_timeout_s)
        except ReplicaUnavailable as error:
            if self._states[url].healthy or not self._looked:
                log.warning("replica_down", replica=url, error=str(error))
            self._set(ReplicaState(url))
        else:
            if not self._states[url].healthy:
                log.info("replica_up", replica=url, models=sorted(models))
                self._lanes[url].probe_now()
            self._set(ReplicaState(url, healthy=True, models=models))

    def _set(self, state: ReplicaState) -> None:
        metrics.REPLICA_UP.labels(state.url).set(state.healthy)
        metrics.REPLICA_MODELS.labels(state.url).set(len(state.models))
        if self._states[state.url] != state:
            self._states[state.url] = state
            self._changes.announce()


def _described(state: ReplicaState, lane: Lane) -> ReplicaDescription:
    return ReplicaDescription(
        url=state.url,
        healthy=state.healthy,
        models=sorted(state.models),
        in_flight=lane.in_flight,
        limit=lane.limit,
        waiting=lane.waiting,
        breaker=lane.breaker.state.name.lower(),
        draining=lane.draining,
        resting=lane.resting,
        last_failure=lane.last_failure,
    )
