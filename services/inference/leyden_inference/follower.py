"""Following the registry: what leyden.models.v1 announces, handed to whoever keeps versions loaded."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol

import structlog

from leyden_inference import metrics
from leyden_inference.settings import InferenceSettings
from leyden_inference.versions import Announced
from leyden_platform.messaging import LogReader, Record, Unavailable
from leyden_schemas import MalformedMessage, Topics, decode

log = structlog.get_logger(__name__)


_POLL_S = 0.2
_CONNECT_S = 5.0
"""How long one attempt to find the topic may take; it must be well below the drain timeout."""


class Keeper(Protocol):
    """Makes loaded what should be loaded."""

    announced: Announced

    async def reconcile(self) -> None:
        """Load what the announcements ask for, let go of what they no longer do; called again and again."""
        ...


class Follower:
    """Keeps the table of announcements up to date and has it acted upon. A component."""

    def __init__(self, settings: InferenceSettings, keeper: Keeper, topic: str = Topics.MODELS.name) -> None:
        self.name = "follower"
        self._settings, self._keeper, self._topic = settings, keeper, topic
        self._state: str | None = "not connected to Kafka"

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
                await self._keeper.reconcile()
                self._state = None
            for record in await reader.poll(timeout_s=_POLL_S):
                self._apply(record)

    def _apply(self, record: Record) -> None:
        announced = self._keeper.announced
        if record.value is None:
            announced.forget((record.key or b"").decode("utf-8", "replace"))
            return
        try:
            announced.apply(decode(Topics.MODELS, record.value))
        except MalformedMessage as error:
            metrics.MALFORMED.inc()
            log.warning("malformed_model_message", where=record.where, error=str(error))


def _reached(ends: Mapping[int, int], positions: Mapping[int, int]) -> bool:
    return all(positions[partition] >= end for partition, end in ends.items())
