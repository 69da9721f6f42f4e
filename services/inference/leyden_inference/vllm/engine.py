"""One server of vLLM with its weights: which names it answers to, and how it goes to the next version."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import structlog

from leyden_inference import metrics as service_metrics
from leyden_inference.errors import LoadFailed
from leyden_inference.settings import VllmSettings
from leyden_inference.vllm import metrics
from leyden_inference.vllm.client import ServerFailed, VllmClient, until_healthy
from leyden_inference.vllm.weights import Verified, judge, reload_limit

log = structlog.get_logger(__name__)

State = Literal["down", "serving", "changing"]
_DRAIN_POLL_S = 0.01


class Server(Protocol):
    """Where the weights are: a child process, or a server that somebody else started."""

    async def start(self, folder: Path) -> None:
        """Have a server that answers, if it is ours with this folder's weights. Raises ``ServerFailed``."""
        ...

    async def ended(self) -> None:
        """Return when it has ended by itself."""
        ...

    async def stop(self) -> None:
        """End it, if it is ours."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether after ``start`` it has the weights of the folder."""
        ...


class Attached:
    """A server that runs already: waited for, never stopped."""

    fresh = False

    def __init__(self, client: VllmClient, url: str, timeout_s: float) -> None:
        self._client, self._timeout_s = client, timeout_s
        client.url = url.rstrip("/")

    async def start(self, folder: Path) -> None:
        """Wait until it answers. Raises ``ServerFailed``."""
        try:
            await asyncio.wait_for(until_healthy(self._client), self._timeout_s)
        except TimeoutError:
            raise ServerFailed(f"{self._client.url} did not answer within {self._timeout_s:g} s") from None

    async def ended(self) -> None:
        """Never known without asking it."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """It is not ours to stop."""


@dataclass(slots=True, eq=False)
class Lease:
    """A request that a server holds."""

    engine: "Engine"
    name: str
    vllm_name: str
    spoiled: bool = False
    _done: bool = field(default=False)

    @property
    def url(self) -> str:
        """The server's base URL."""
        return self.engine.client.url

    def release(self) -> None:
        """The request has ended."""
        if not self._done:
            self._done = True
            self.engine.ended(self)


class Engine:
    """One server. Only its tender changes it; requests come and go in between."""

    def __init__(self, number: int, client: VllmClient, server: Server, settings: VllmSettings) -> None:
        self.number, self.client, self.server, self._settings = number, client, server, settings
        self.state: State = "down"
        self.base: Verified | None = None
        self.adapters: dict[str, Verified] = {}
        self.context = 0
        self._vllm_name = ""
        self._fresh: float | None = None
        self._leases: set[Lease] = set()
        self._active_at: dict[str, float] = {}

    # -- requests

    @property
    def names(self) -> list[str]:
        """The versions it takes requests for now."""
        if self.state != "serving" or self.base is None:
            return []
        return [self.base.name, *self.adapters]

    @property
    def open(self) -> int:
        """Requests it holds."""
        return len(self._leases)

    def lease(self, name: str) -> Lease:
        """Count a request in. The name must be one of ``names``."""
        assert self.base is not None
        lease = Lease(self, name, self._vllm_name if name == self.base.name else name)
        self._leases.add(lease)
        self._active_at[name] = time.monotonic()
        metrics.IN_FLIGHT.labels(str(self.number)).set(self.open)
        return lease

    def ended(self, lease: Lease) -> None:
        """Count a request out."""
        self._leases.discard(lease)
        self._active_at[lease.name] = time.monotonic()
        metrics.IN_FLIGHT.labels(str(self.number)).set(self.open)

    def idle_s(self, name: str) -> float:
        """Seconds since a version last had a request; 0 while it has one."""
        busy = any(lease.name == name for lease in self._leases)
        return 0.0 if busy else time.monotonic() - self._active_at.get(name, 0.0)

    # -- changes

    async def bring_up(self, version: Verified) -> None:
        """Start with a version's weights. Raises ``ServerFailed``, or ``LoadFailed`` when its probe fails."""
        self.take_down()
        try:
            await self.server.start(version.folder)
            self._vllm_name, self.context = await self.client.base_model()
            if not self.server.fresh:
                await self._reload(version)
            self._fresh = None
            off = await self._prove(version, self._vllm_name, before=None)
            self._fresh = off if self.server.fresh else None
        except (ServerFailed, LoadFailed):
            metrics.ENGINE_STARTS.labels(str(self.number), "failed").inc()
            await self.server.stop()
            raise
        metrics.ENGINE_STARTS.labels(str(self.number), "started").inc()
        self._serve(version)

    async def change(self, version: Verified) -> None:
        """Replace the base weights; requests that run are waited for a while, then kept over the change.

        Raises ``LoadFailed`` when its probe says that these are not the weights, ``ServerFailed`` when
        the server must be started anew; it takes no more requests then.
        """
        before = self.base
        async with self._changing("reload"):
            for name in list(self.adapters):
                await self.client.unload_adapter(name)
                del self.adapters[name]
            await self._reload(version)
            await self._prove(version, self._vllm_name, before=before)
            metrics.SPANNED.inc(self.open)
            self._serve(version)

    async def restart(self, version: Verified) -> None:
        """Replace the base weights by a new start. Raises as ``bring_up`` does."""
        async with self._changing("restart"):
            await self.bring_up(version)

    async def add_adapter(self, adapter: Verified) -> None:
        """Load an adapter beside the others. Raises ``LoadFailed`` or ``ServerFailed``."""
        timeout_s = self._settings.swap_timeout_s
        try:
            await self.client.load_adapter(adapter.name, adapter.folder, timeout_s)
        except ServerFailed as error:
            if await self.client.healthy():
                raise LoadFailed("adapter", f"{adapter.name}: {error}") from None
            raise
        try:
            await self._prove(adapter, adapter.name, before=self.base)
        except LoadFailed:
            await self.client.unload_adapter(adapter.name)
            raise
        self.adapters[adapter.name] = adapter
        service_metrics.SWAPS.labels("loaded").inc()
        log.info(
            "version_swapped", action="loaded", model=adapter.name, engine=self.number, loaded=self.names
        )

    async def drop_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ``ServerFailed``."""
        self.adapters.pop(name, None)
        await self.client.unload_adapter(name)
        service_metrics.SWAPS.labels("unloaded").inc()
        log.info("version_swapped", action="unloaded", model=name, engine=self.number, loaded=self.names)

    def take_down(self) -> None:
        """Take no more requests, and have none of the present ones believed."""
        self.state, self.base = "down", None
        self.adapters.clear()
        metrics.ENGINE_UP.labels(str(self.number)).set(0)
        for lease in self._spoilable():
            lease.spoiled = True
            metrics.SPOILED.inc()

    def _spoilable(self) -> Iterable[Lease]:
        return [lease for lease in self._leases if not lease.spoiled]

    def _serve(self, version: Verified) -> None:
        self.base, self.state = version, "serving"
        metrics.ENGINE_UP.labels(str(self.number)).set(1)
        service_metrics.SWAPS.labels("loaded").inc()
        log.info(
            "version_swapped", action="loaded", model=version.name, engine=self.number, loaded=self.names
        )

    @contextlib.asynccontextmanager
    async def _changing(self, way: str) -> AsyncIterator[None]:
        """Inside the block no request is let in, and at its beginning few or none are left."""
        began, self.state = time.monotonic(), "changing"
        metrics.ENGINE_UP.labels(str(self.number)).set(0)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained(), self._settings.swap_drain_s)
            yield
        except (ServerFailed, LoadFailed):
            self.take_down()
            raise
        finally:
            metrics.SWAP_SECONDS.labels(way).observe(time.monotonic() - began)

    async def _drained(self) -> None:
        while self._leases:  # noqa: ASYNC110 - looked at rarely, and briefly
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _reload(self, version: Verified) -> None:
        """Weights are replaced while nothing is computed."""
        await self.client.pause()
        try:
            await self.client.reload(version.folder, self._settings.swap_timeout_s)
        finally:
            await self.client.resume()

    async def _prove(self, version: Verified, name: str, *, before: Verified | None) -> float | None:
        """How far off the answers are. Raises ``LoadFailed`` when what is served is something else."""
        if version.probe is None:
            metrics.PROBES.labels("absent").inc()
            return None
        served = await self.client.answers(name, version.probe.token_ids)
        limit = reload_limit(self._settings.probe_tolerance, self._fresh)
        old = before.probe if before else None
        return judge(version, served, before=old, limit=limit, engine=self.number)


def loaded_names(engines: Iterable[Engine]) -> Iterator[str]:
    """Every name that some server takes requests for."""
    for engine in engines:
        yield from engine.names
