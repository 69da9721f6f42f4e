"""Every acknowledged record is in the topic exactly once, whatever the load.

Counted by reading the records: docs/messaging.md says why ``end_offsets`` must not be counted with.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from leyden_platform.messaging import KafkaPublisher, LogReader, ensure_topics
from leyden_platform.messaging.producer import MAX_BATCH_BYTES
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic

pytestmark = pytest.mark.kafka

DEADLINE_S = 50.0
RECORDS, SIZE = 1_000, 12_000


@asynccontextmanager
async def publishing(kafka: KafkaSettings, max_bytes_in_flight: int) -> AsyncIterator[KafkaPublisher]:
    patient = kafka.model_copy(update={"request_timeout_s": DEADLINE_S})
    publisher = KafkaPublisher(patient, "test", max_bytes_in_flight=max_bytes_in_flight)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


async def read_ids(kafka: KafkaSettings, topic: str, count: int) -> Counter[bytes]:
    """Ids by how often they are there, read until ``count`` different ones were seen and nothing follows."""
    seen: Counter[bytes] = Counter()
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
        while len(seen) < count:
            seen.update((record.value or b"")[:36] for record in await reader.poll(0.2))
        seen.update((record.value or b"")[:36] for record in await reader.poll(0.5))
    return seen


def in_flight() -> float:
    return REGISTRY.get_sample_value("leyden_publisher_bytes_in_flight") or 0.0


@pytest.mark.parametrize(
    ("partitions", "senders", "room"),
    [
        pytest.param(4, 64, 16 * SIZE, id="more senders than there is room for"),
        pytest.param(1, 256, 64 * MAX_BATCH_BYTES, id="more senders than a batch has room for"),
    ],
)
async def test_every_acknowledged_record_is_there_once(
    kafka: KafkaSettings, partitions: int, senders: int, room: int
) -> None:
    topic = f"load-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(topic, partitions=partitions)])
    acknowledged: list[bytes] = []
    most = 0.0
    work = iter(range(RECORDS))

    async def send(publisher: KafkaPublisher) -> None:
        nonlocal most
        for number in work:
            identity = str(uuid4()).encode()
            value = identity.ljust(SIZE, b"x")
            await publisher.publish_encoded(topic, b"rollout-%d" % (number % 97), value, [])
            acknowledged.append(identity)
            most = max(most, in_flight())

    async with publishing(kafka, room) as publisher, asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(send(publisher) for _ in range(senders)))
        assert in_flight() == 0
    assert await read_ids(kafka, topic, RECORDS) == Counter(acknowledged)
    assert 0 < most <= min(room, senders * (SIZE + 10))
