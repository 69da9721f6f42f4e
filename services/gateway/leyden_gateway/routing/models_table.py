"""Follows the models topic from its start, so that the policy table is the registry's within moments."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from leyden_gateway import metrics
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.choice import PolicyTable
from leyden_platform.messaging import LogReader, Record, Unavailable
from leyden_platform.settings import KafkaSettings
from leyden_schemas import AliasMoved, MalformedMessage, Topics

log = structlog.get_logger(__name__)

RECONNECT_S = 1.0


class ModelsTable:
    """A component that keeps a ``PolicyTable``. While Kafka is away it keeps what it last knew."""

    def __init__(self, kafka: KafkaSettings, changes: Changes, on_event: Callable[[], None]) -> None:
        self.name = "models"
        self.table = PolicyTable()
        self.caught_up = False
        self._kafka, self._changes, self._on_event = kafka, changes, on_event

    def not_ready(self) -> str | None:
        """Ready once everything that was on the topic at the start has been read."""
        return None if self.caught_up else f"reading {Topics.MODELS.name}"

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until ``stop``, reconnecting when the broker goes away."""
        following = asyncio.create_task(self._follow_for_ever())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self._follow()
            except Unavailable as error:
                log.warning("models_topic_unavailable", error=str(error))
                await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with LogReader(self._kafka, Topics.MODELS.name) as reader:
            ends = await reader.end_offsets()
            while True:
                for record in await reader.poll(timeout_s=1.0 if self.caught_up else 0.1):
                    self._take(record)
                if not self.caught_up:
                    positions = await reader.positions()
                    self.caught_up = all(positions[number] >= end for number, end in ends.items())
                    self._changes.announce()

    def _take(self, record: Record) -> None:
        if record.value is None:
            metrics.MODEL_EVENTS.labels("tombstone").inc()
            self.table.forget((record.key or b"").decode("utf-8", "replace"))
            self._changes.announce()
            return
        try:
            event = record.message()
        except MalformedMessage as error:
            metrics.MODEL_EVENTS.labels("malformed").inc()
            log.warning("model_event_malformed", where=record.where, error=str(error))
            return
        metrics.MODEL_EVENTS.labels(event.type).inc()
        self.table.apply(event)
        if isinstance(event, AliasMoved):
            metrics.ALIAS_VERSION.labels(event.policy, event.alias).set(event.version)
            metrics.ALIAS_WEIGHT.labels(event.policy, event.alias).set(event.weight or 0)
        self._on_event()
        self._changes.announce()
