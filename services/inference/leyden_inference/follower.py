"""Following the registry: load what leyden.models.v1 asks for, let go of what it no longer does."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping

import structlog

from leyden_inference import metrics
from leyden_inference.errors import LoadFailed
from leyden_inference.loading import Loader
from leyden_inference.serving import Serving
from leyden_inference.settings import InferenceSettings
from leyden_inference.versions import loaded_versions, to_keep
from leyden_platform.messaging import LogReader, Record, Unavailable
from leyden_schemas import MalformedMessage, ModelPublished, Topics, decode, policy_at

log = structlog.get_logger(__name__)


_POLL_S = 0.2
_CONNECT_S = 5.0
"""How long one attempt to find the topic may take; it must be well below the drain timeout."""


class Follower:
    """Keeps the wanted versions loaded. A component.

    A version that cannot be loaded is logged, counted by reason and tried again later; what is served stays.
    """

    def __init__(
        self, settings: InferenceSettings, serving: Serving, loader: Loader, topic: str = Topics.MODELS.name
    ) -> None:
        self.name = "follower"
        self._settings, self._serving, self._loader, self._topic = settings, serving, loader, topic
        self._state: str | None = "not connected to Kafka"
        self._failed: dict[str, tuple[ModelPublished, float]] = {}
        self._held: set[str] = set()
        self._unwanted: dict[str, float] = {}

    def not_ready(self) -> str | None:
        """Ready once everything announced before the start is loaded, or known to be impossible to load."""
        return self._state

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until ``stop``; while Kafka is away, serve what is loaded."""
        kafka = self._settings.kafka.model_copy(update={"request_timeout_s": _CONNECT_S})
        while not stop.is_set():
            try:
                async with LogReader(kafka, self._topic) as reader:
                    await self._follow(reader, stop)
            except Unavailable as error:
                log.warning("models_topic_unavailable", error=str(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._settings.reconnect_s)

    async def _follow(self, reader: LogReader, stop: asyncio.Event) -> None:
        """Take in the whole table before acting on it, then act on every change."""
        ends = await reader.end_offsets()
        caught_up = False
        while not stop.is_set():
            caught_up = caught_up or _reached(ends, await reader.positions())
            if caught_up:
                await self._reconcile()
                self._state = None
            for record in await reader.poll(timeout_s=_POLL_S):
                self._apply(record)

    def _apply(self, record: Record) -> None:
        announced = self._serving.announced
        if record.value is None:
            announced.forget((record.key or b"").decode("utf-8", "replace"))
            return
        try:
            announced.apply(decode(Topics.MODELS, record.value))
        except MalformedMessage as error:
            metrics.MALFORMED.inc()
            log.warning("malformed_model_message", where=record.where, error=str(error))

    async def _reconcile(self) -> None:
        followed = self._settings.policies
        for policy in list(self._serving.announced.published):
            if not followed or policy in followed:
                wanted = self._serving.announced.wanted(policy)
                for version in sorted(wanted, reverse=True):
                    await self._ensure(self._serving.announced.published[policy][version])
                self._let_go(policy, wanted)

    async def _ensure(self, message: ModelPublished) -> None:
        """Load a version that is not loaded, unless the same announcement failed a short while ago."""
        name = policy_at(message.policy, message.version)
        failed, retry_at = self._failed.get(name, (None, 0.0))
        if name in self._serving.names or (failed == message and time.monotonic() < retry_at):
            return
        try:
            model = await asyncio.to_thread(self._loader.load_published, message)
        except LoadFailed as error:
            metrics.LOAD_FAILURES.labels(error.reason).inc()
            log.error("version_not_loaded", model=name, reason=error.reason, error=str(error))
            self._failed[name] = (message, time.monotonic() + self._settings.load_retry_s)
            return
        self._failed.pop(name, None)
        self._serving.add(name, model)
        self._held.add(name)

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


def _reached(ends: Mapping[int, int], positions: Mapping[int, int]) -> bool:
    return all(positions[partition] >= end for partition, end in ends.items())
