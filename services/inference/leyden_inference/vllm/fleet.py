"""The servers of one service together: what each should hold, who takes a request, and a tender for each."""

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import structlog

from leyden_inference import metrics as service_metrics
from leyden_inference.errors import LoadFailed, QueueFull, RequestRefused, UnknownModel
from leyden_inference.fetching import make_fetcher
from leyden_inference.settings import InferenceSettings
from leyden_inference.versions import Announced, resolve
from leyden_inference.vllm import metrics
from leyden_inference.vllm.client import ServerFailed
from leyden_inference.vllm.engine import Engine, Lease, loaded_names
from leyden_inference.vllm.placement import Wanted, by_priority, place
from leyden_inference.vllm.tender import Tender
from leyden_inference.vllm.turns import PeerState, Turns
from leyden_schemas import ModelPublished, WeightsKind, policy_at

log = structlog.get_logger(__name__)

_WAIT_S = 1.0
NO_START = "start"
_NO_ADAPTERS = (
    "it is an adapter, and LEYDEN_INFERENCE_VLLM__MAX_LORAS is 0; set it to 2 or more, and start servers "
    "that are attached to with --enable-lora, or set LEYDEN_LEARNER_PUBLISH=merged"
)


class VersionNotLoaded(RequestRefused):
    """A version that should be served was not loaded in time."""

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(
            f"The model `{name}` is being loaded and was not ready within {waited_s:g} s; try again.",
            status=503,
            kind="overloaded_error",
            code="model_loading",
        )


class Fleet:
    """Keeps versions on servers and requests on versions. A component; used from the event loop only."""

    def __init__(
        self,
        settings: InferenceSettings,
        policy: str,
        engines: Sequence[Engine],
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """A session given is closed at the end."""
        self.name = "vllm"
        self.announced = Announced()
        self.engines = list(engines)
        self._settings, self._policy, self._session = settings, policy, session
        self._wanted: list[Wanted | None] = [None] * len(self.engines)
        self._refused: dict[str, tuple[ModelPublished, float]] = {}
        self._proven: set[str] = set()
        self._reported: set[str] = set()
        self._changed = asyncio.Event()
        self._parked = 0
        self.turns: Turns | None = None

    # -- a component

    def not_ready(self) -> str | None:
        """Ready once a server takes requests, or when there is nothing to serve."""
        if self.announced.published.get(self._policy) and not any(engine.names for engine in self.engines):
            return "no server of vLLM serves a version yet"
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Tend every server until ``stop``, then end them. Raises what makes one hopeless."""
        assert self.turns is not None
        fetcher = make_fetcher(self._settings)
        tenders = [Tender(self, engine, self.turns, self._settings, fetcher) for engine in self.engines]
        tasks = [asyncio.create_task(tender.run()) for tender in tenders]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            for pending in (stopping, *tasks):
                pending.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await asyncio.gather(*(engine.server.stop() for engine in self.engines))
            if self._session:
                await self._session.close()

    # -- what to hold

    async def reconcile(self) -> None:
        """Decide anew what each server should hold."""
        self.plan()

    def plan(self) -> None:
        """What each server should hold, given the announcements and what was refused a short while ago."""
        published = self.announced.published.get(self._policy, {})
        now = time.monotonic()
        refused = {
            number
            for number, message in published.items()
            if (entry := self._refused.get(policy_at(self._policy, number)))
            and entry[0] == message
            and now < entry[1]
        }
        versions = by_priority(self.announced, self._policy, self._settings.vllm.aliases, refused)
        self._report_adapters(published)
        held = [engine.base.name if engine.base else None for engine in self.engines]
        wanted = place(versions, published, held, self._settings.vllm.max_loras)
        if wanted != self._wanted:
            self._wanted = wanted
            self.notify()

    def _report_adapters(self, published: Mapping[int, ModelPublished]) -> None:
        """Say, once each, which adapters should be served and no server was told to hold."""
        if self._settings.vllm.max_loras:
            return
        wanted = (published[number] for number in sorted(self.announced.wanted(self._policy)))
        names = {policy_at(m.policy, m.version) for m in wanted if m.kind is WeightsKind.LORA}
        for name in sorted(names - self._reported):
            service_metrics.LOAD_FAILURES.labels("adapter").inc()
            log.error("version_not_loaded", model=name, reason="adapter", error=_NO_ADAPTERS)
        self._reported |= names

    def hold(self, message: ModelPublished) -> None:
        """Take in a version that nobody announced: a folder of the settings."""
        self.announced.apply(message)
        self.plan()

    def wanted(self, engine: Engine) -> Wanted | None:
        """What a server should hold."""
        return self._wanted[self.engines.index(engine)]

    def others_serve(self, engine: Engine) -> bool:
        """Whether another server takes requests."""
        return any(other.names for other in self.engines if other is not engine)

    def refuse(self, message: ModelPublished, error: LoadFailed) -> None:
        """A version could not be served: count it, leave it alone for a while, plan without it.

        One that no server starts with is left alone until it is announced anew: every try costs a server.
        A folder of the settings has nothing to fall back to; its failure is raised, and ends the service.
        """
        name = policy_at(message.policy, message.version)
        service_metrics.LOAD_FAILURES.labels(error.reason).inc()
        log.error("version_not_loaded", model=name, reason=error.reason, error=str(error))
        if not self._settings.follow:
            raise error
        pause_s = math.inf if error.reason == NO_START else self._settings.load_retry_s
        self._refused[name] = (message, time.monotonic() + pause_s)
        self.plan()

    def doubt(self, message: ModelPublished, error: ServerFailed) -> None:
        """No server could be started with a version; one that was never served gives way to an older one."""
        published = self.announced.published.get(self._policy, {})
        proven = policy_at(message.policy, message.version) in self._proven
        if not proven and min(published, default=message.version) < message.version:
            self.refuse(message, LoadFailed(NO_START, str(error)))

    def accept(self, name: str) -> None:
        """A version is served."""
        self._proven.add(name)
        self._refused.pop(name, None)
        self._measure()

    def notify(self) -> None:
        """Something changed that requests or tenders may wait for."""
        self._measure()
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float = _WAIT_S) -> None:
        """Return at the next change, or after a while."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def state(self) -> PeerState:
        """What other replicas are told."""
        intends = self.turns.intends if self.turns else None
        return PeerState(frozenset(self.names), frozenset(self._refused), intends)

    # -- who takes a request

    @property
    def names(self) -> list[str]:
        """Names that take requests now, sorted."""
        return sorted(set(loaded_names(self.engines)))

    async def lease(self, ref: str) -> Lease:
        """A place on the least loaded server with the version that ``ref`` means; waits while that is loaded.

        Raises ``UnknownModel``, ``QueueFull`` and ``VersionNotLoaded``.
        """
        if lease := self._take(ref):
            return lease
        if self._parked >= self._settings.max_queue:
            service_metrics.REFUSED.labels("queue_full").inc()
            raise QueueFull(self._settings.max_queue)
        self._parked += 1
        metrics.PARKED.set(self._parked)
        try:
            return await self._wait_for(ref)
        finally:
            self._parked -= 1
            metrics.PARKED.set(self._parked)

    async def _wait_for(self, ref: str) -> Lease:
        limit_s = self._settings.vllm.park_timeout_s
        deadline = time.monotonic() + limit_s
        while (left_s := deadline - time.monotonic()) > 0:
            await self.changed(min(left_s, _WAIT_S))
            if lease := self._take(ref):
                return lease
        metrics.PARK_TIMEOUTS.inc()
        raise VersionNotLoaded(ref, limit_s)

    def _take(self, ref: str) -> Lease | None:
        """A place now, or None while what is asked for is on its way. Raises ``UnknownModel``."""
        name = resolve(ref, self.names, self.announced.aliases)
        if name is not None:
            able = [engine for engine in self.engines if name in engine.names]
            return min(able, key=lambda engine: engine.open).lease(name)
        if resolve(ref, self._coming(), self.announced.aliases) is None:
            service_metrics.REFUSED.labels("unknown_model").inc()
            raise UnknownModel(ref, self.names)
        return None

    def _coming(self) -> set[str]:
        """Names that will take requests when the servers hold what they should."""
        messages = [m for wanted in self._wanted if wanted for m in (wanted.base, *wanted.adapters)]
        return {policy_at(message.policy, message.version) for message in messages}

    def _measure(self) -> None:
        service_metrics.LOADED.labels(self._policy).set(len(self.names))


def folder_version(name: str, path: Path) -> ModelPublished:
    """A folder of the settings as if announced. Raises ``ValueError`` when its name has no version."""
    from leyden_platform.clock import SystemClock
    from leyden_schemas import new_id, parse_policy_ref

    policy, version = parse_policy_ref(name)
    if not isinstance(version, int):
        raise ValueError(
            f"LEYDEN_INFERENCE_MODELS: call it policy@version, for example calculator@0, not {name!r}"
        )
    return ModelPublished(
        event_id=new_id(),
        policy=policy,
        version=version,
        occurred_at=SystemClock().now(),
        artifact=path.absolute().as_uri(),
        digest="",
    )
