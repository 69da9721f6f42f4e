"""The versions that the built-in engine keeps loaded: those that are wanted, others until they are idle."""

import asyncio
import time
from collections.abc import Collection

import structlog

from leyden_inference import metrics
from leyden_inference.errors import LoadFailed
from leyden_inference.fetching import Fetcher
from leyden_inference.loading import Loader
from leyden_inference.serving import Serving
from leyden_inference.settings import InferenceSettings
from leyden_inference.versions import loaded_versions, to_keep
from leyden_schemas import ModelPublished, WeightsKind, policy_at

log = structlog.get_logger(__name__)


class ServingKeeper:
    """Keeps the wanted versions loaded.

    A version that cannot be loaded is logged, counted by reason and tried again later; what is served stays.
    """

    def __init__(
        self, settings: InferenceSettings, serving: Serving, loader: Loader, fetcher: Fetcher
    ) -> None:
        self.announced = serving.announced
        self._settings, self._serving = settings, serving
        self._loader, self._fetcher = loader, fetcher
        self._failed: dict[str, tuple[ModelPublished, float]] = {}
        self._held: set[str] = set()
        self._unwanted: dict[str, float] = {}

    async def reconcile(self) -> None:
        """Load what the announcements ask for, let go of what they no longer do."""
        followed = self._settings.policies
        for policy in list(self.announced.published):
            if not followed or policy in followed:
                wanted = self.announced.wanted(policy)
                for version in sorted(wanted, reverse=True):
                    await self._ensure(self.announced.published[policy][version])
                self._let_go(policy, wanted)

    async def _ensure(self, message: ModelPublished) -> None:
        """Load a version that is not loaded, unless the same announcement failed a short while ago."""
        name = policy_at(message.policy, message.version)
        failed, retry_at = self._failed.get(name, (None, 0.0))
        if name in self._serving.names or (failed == message and time.monotonic() < retry_at):
            return
        try:
            local, parent = await self._fetcher.local(message), await self._parent(message)
            model = await asyncio.to_thread(self._loader.load_published, local, parent)
        except LoadFailed as error:
            metrics.LOAD_FAILURES.labels(error.reason).inc()
            log.error("version_not_loaded", model=name, reason=error.reason, error=str(error))
            self._failed[name] = (message, time.monotonic() + self._settings.load_retry_s)
            return
        self._failed.pop(name, None)
        self._serving.add(name, model)
        self._held.add(name)

    async def _parent(self, message: ModelPublished) -> ModelPublished | None:
        """What an adapter lies over, if it is published."""
        if message.kind is WeightsKind.FULL or message.parent is None:
            return None
        parent = self.announced.published[message.policy].get(message.parent)
        return await self._fetcher.local(parent) if parent else None

    def _let_go(self, policy: str, wanted: Collection[int]) -> None:
        """Unload versions that have been unwanted and idle for ``linger_s``."""
        loaded = loaded_versions(policy, self._held)
        kept, now, linger_s = to_keep(wanted, loaded), time.monotonic(), self._settings.linger_s
        for version in loaded:
            name = policy_at(policy, version)
            if version in kept:
                self._unwanted.pop(name, None)
            elif min(now - self._unwanted.setdefault(name, now), self._serving.idle_s(name)) >= linger_s:
                del self._unwanted[name]
                self._held.remove(name)
                self._serving.remove(name)
