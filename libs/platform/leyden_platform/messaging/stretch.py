"""Reading a stretch of the log again: what happened between two moments or two offsets, and nothing after it.

For the rare question about something that memory has let go. Nothing is decoded and nothing is committed;
the caller sets the deadline.
"""

from collections.abc import AsyncIterator, Collection
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import Unavailable
from leyden_platform.messaging.reader import partitions_of, to_record
from leyden_platform.messaging.record import Record
from leyden_platform.settings import KafkaSettings

Moment = datetime | int
"""A time, or an offset (of one partition)."""

_POLL_MS = 500


async def read_stretch(
    settings: KafkaSettings,
    topic: str,
    *,
    since: Moment,
    until: Moment,
    partitions: Collection[int] | None = None,
) -> AsyncIterator[list[Record]]:
    """Batches of the records from ``since`` on and before ``until``, each partition's in order.

    What retention has taken is not there; what is not written yet is not waited for. With times, records are
    those that Kafka found for ``since``, and a partition ends with its first record of ``until`` or later.
    ``partitions`` is all of them by default. Raises ``Unavailable``.
    """
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=settings.max_message_bytes,
        isolation_level="read_committed" if settings.idempotent else "read_uncommitted",
    )
    try:
        await consumer.start()
        known = await partitions_of(consumer, topic, settings.request_timeout_s)
        wanted = [p for p in known if partitions is None or p.partition in partitions]
        consumer.assign(wanted)
        ends = await _begin(consumer, wanted, since, until)
        async for batch in _batches(consumer, ends, until):
            yield batch
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"cannot read {topic} at {settings.bootstrap}: {error}") from error
    finally:
        await consumer.stop()


async def _begin(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], since: Moment, until: Moment
) -> dict[TopicPartition, int]:
    """Seek to the beginning; return the offset before which each partition that has anything ends."""
    begins = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    starts = begins | await _offsets(consumer, partitions, since, ends)
    open_ends = {}
    for partition in partitions:
        start = max(starts[partition], begins[partition])
        end = until if isinstance(until, int) else ends[partition]
        consumer.seek(partition, start)
        if start < end:
            open_ends[partition] = end
        else:
            consumer.pause(partition)
    return open_ends


async def _offsets(
    consumer: AIOKafkaConsumer,
    partitions: list[TopicPartition],
    since: Moment,
    ends: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    if isinstance(since, int):
        return dict.fromkeys(partitions, since)
    millis = int(since.timestamp() * 1000)
    found = await consumer.offsets_for_times(dict.fromkeys(partitions, millis))
    return {p: ends[p] if found.get(p) is None else found[p].offset for p in partitions}


async def _batches(
    consumer: AIOKafkaConsumer, open_ends: dict[TopicPartition, int], until: Moment
) -> AsyncIterator[list[Record]]:
    latest_ms = None if isinstance(until, int) else int(until.timestamp() * 1000)
    while open_ends:
        fetched = await consumer.getmany(*open_ends, timeout_ms=_POLL_MS)
        batch = []
        for partition, raws in fetched.items():
            for raw in raws:
                if raw.offset < open_ends[partition] and (latest_ms is None or raw.timestamp < latest_ms):
                    batch.append(to_record(raw))
                else:
                    open_ends[partition] = 0
                    break
        if batch:
            yield batch
        for partition in [p for p, end in open_ends.items() if await consumer.position(p) >= end]:
            del open_ends[partition]
            consumer.pause(partition)
