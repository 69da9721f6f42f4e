"""Every acknowledged record is in the topic exactly once, whatever the load.

Counted by reading the records: docs/messaging.md says why ``end_offsets`` must not be counted with.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from leyden_platform.messaging import KafkaPublisher, LogReader, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic

pytestmark = pytest.mark.kafka

DEADLINE_S = 30.0
RECORDS, SENDERS, SIZE = 2_000, 64, 12_000


@pytest.fixture
async def topic(kafka: KafkaSettings) -> str:
    name = f"load-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(name, partitions=4)])
    return name


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(kafka, "test", max_bytes_in_flight=16 * SIZE)
    await publisher.start()
    yield publisher
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


async def test_every_acknowledged_record_is_there_once(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    acknowledged: list[bytes] = []
    most = 0.0

    async def sender(work: Iterator[int]) -> None:
        nonlocal most
        for number in work:
            identity = str(uuid4()).encode()
            await publisher.publish_encoded(
                topic, b"rollout-%d" % (number % 97), identity.ljust(SIZE, b"x"), []
            )
            acknowledged.append(identity)
            most = max(most, in_flight())

    work = iter(range(RECORDS))
    started = time.monotonic()
    await asyncio.gather(*(sender(work) for _ in range(SENDERS)))
    assert time.monotonic() - started < DEADLINE_S
    assert await read_ids(kafka, topic, RECORDS) == Counter(acknowledged)
    assert 0 < most <= 16 * SIZE, "more senders than there is room for, and no more in flight than there is"
    assert in_flight() == 0
