"""Reading partitions without a group: compacted tables from the start, and positions kept elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import Unavailable
from leyden_platform.messaging.metrics import POSITIONS_RESET
from leyden_platform.messaging.record import Partition, Record
from leyden_platform.settings import KafkaSettings

log = structlog.get_logger(__name__)


def to_record(raw: Any) -> Record:
    """An aiokafka ``ConsumerRecord`` as ours; header values that are not UTF-8 are replaced, not refused."""
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in raw.headers or ()}
    return Record(Partition(raw.topic, raw.partition), raw.offset, raw.key, raw.value, headers, raw.timestamp)


async def partitions_of(consumer: AIOKafkaConsumer, topic: str, timeout_s: float) -> list[TopicPartition]:
    """The topic's partitions, in order. Raises ``TimeoutError`` when the topic does not appear."""
    async with asyncio.timeout(timeout_s):
        while True:
            await consumer._client.force_metadata_update()
            known = consumer._client.cluster.partitions_for_topic(topic)
            if known:
                return [TopicPartition(topic, index) for index in sorted(known)]
            consumer._client.add_topic(topic)
            await asyncio.sleep(0.1)


class LogReader:
    """Follows all partitions of a topic from given positions, or from the beginning.

    ``positions`` maps partition to the next offset to read. Nothing is ever committed: whoever reads
    keeps the positions with what was derived from them. A position that the log does not hold (retention took
    it, or the log was made anew and is shorter) becomes the beginning of the log.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, positions: Mapping[int, int] | None = None
    ) -> None:
        self._settings, self._topic = settings, topic
        self._start = dict(positions or {})
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []

    async def __aenter__(self) -> Self:
        """Connect and seek. Raises ``Unavailable`` when the broker or the topic is missing."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=self._settings.max_message_bytes,
            isolation_level="read_committed" if self._settings.idempotent else "read_uncommitted",
        )
        try:
            await consumer.start()
            partitions = await partitions_of(consumer, self._topic, self._settings.request_timeout_s)
            consumer.assign(partitions)
            begins = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions) if self._start else {}
            for partition in partitions:
                wanted = self._start.get(partition.partition, begins[partition])
                consumer.seek(partition, self._within(partition, wanted, begins, ends))
        except (KafkaError, TimeoutError) as error:
            await consumer.stop()
            raise Unavailable(f"cannot read {self._topic} at {self._settings.bootstrap}: {error}") from error
        self._consumer, self._partitions = consumer, partitions
        return self

    def _within(
        self,
        partition: TopicPartition,
        wanted: int,
        begins: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> int:
        """``wanted`` when the log holds it, else the beginning of the log; a reset is logged and counted."""
        if begins[partition] <= wanted <= ends.get(partition, wanted):
            return wanted
        reason = "lost" if wanted < begins[partition] else "another_log"
        POSITIONS_RESET.labels(self._topic, reason).inc()
        log.warning(
            "position_reset",
            topic=self._topic,
            partition=partition.partition,
            wanted=wanted,
            beginning=begins[partition],
            reason=reason,
        )
        return begins[partition]

    async def __aexit__(self, *_exc: object) -> None:
        if self._consumer:
            await self._consumer.stop()
            self._consumer = None

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Record]:
        """What arrived within ``timeout_s``; empty when nothing did. Raises ``Unavailable``."""
        assert self._consumer is not None, "enter the reader first"
        try:
            batches = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except KafkaError as error:
            raise Unavailable(f"reading {self._topic} failed: {error}") from error
        return [to_record(raw) for batch in batches.values() for raw in batch]

    async def end_offsets(self) -> dict[int, int]:
        """Partition to the offset after its last message."""
        assert self._consumer is not None, "enter the reader first"
        ends = await self._consumer.end_offsets(self._partitions)
        return {partition.partition: offset for partition, offset in ends.items()}

    async def positions(self) -> dict[int, int]:
        """Partition to the next offset to read."""
        assert self._consumer is not None, "enter the reader first"
        return {p.partition: await self._consumer.position(p) for p in self._partitions}

    async def follow(self, stop: asyncio.Event) -> AsyncIterator[Record]:
        """Records until ``stop`` is set."""
        while not stop.is_set():
            for record in await self.poll(timeout_s=0.2):
                yield record
