"""Reading a topic once, up to where it ended, on a real broker."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from leyden_platform.messaging import BoundedReader, Extent, KafkaPublisher, Unavailable, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic, Topics

pytestmark = pytest.mark.kafka


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher."""
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def topic(kafka: KafkaSettings) -> str:
    """A topic of three partitions that nobody else uses."""
    topic = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=3)
    await ensure_topics(kafka, [topic])
    return topic.name


async def publish(publisher: KafkaPublisher, topic: str, count: int, size: int = 10) -> None:
    """Values spread over the partitions, several to a batch."""
    bodies = (f"{number}".ljust(size).encode() for number in range(count))
    await asyncio.gather(
        *(publisher.publish_raw(topic, f"{n}".encode(), body) for n, body in enumerate(bodies))
    )


async def read(reader: BoundedReader) -> dict[int, list[int]]:
    """The offsets of every partition, one partition after the other."""
    found: dict[int, list[int]] = {number: [] for number in reader.extents}
    for number, offsets in found.items():
        while (record := await reader.next(number)) is not None:
            offsets.append(record.offset)
    return found


async def test_everything_up_to_the_end_and_nothing_that_came_later(
    kafka: KafkaSettings, publisher: KafkaPublisher, topic: str
) -> None:
    await publish(publisher, topic, 200)
    async with BoundedReader(kafka, topic) as reader:
        await publish(publisher, topic, 100)
        found = await read(reader)
        assert sum(extent.end for extent in reader.extents.values()) == 200
        assert found == {n: list(range(extent.end)) for n, extent in reader.extents.items()}
        assert [await reader.next(number) for number in found] == [None] * 3


async def test_partitions_are_read_in_any_order_and_more_than_is_held_at_once(
    kafka: KafkaSettings, publisher: KafkaPublisher, topic: str
) -> None:
    await publish(publisher, topic, 6_000)
    async with BoundedReader(kafka, topic) as reader:
        found: dict[int, list[int]] = {number: [] for number in reader.extents}
        left = set(found)
        while left:
            for number in sorted(left):
                record = await reader.next(number)
                if record is None:
                    left.discard(number)
                else:
                    found[number].append(record.offset)
        assert found == {n: list(range(extent.end)) for n, extent in reader.extents.items()}


async def test_reading_goes_on_where_it_is_told(
    kafka: KafkaSettings, publisher: KafkaPublisher, topic: str
) -> None:
    await publish(publisher, topic, 60)
    async with BoundedReader(kafka, topic) as reader:
        assert await reader.next(0) is not None
        reader.seek(0, 5)
        record = await reader.next(0)
        assert record is not None
        assert record.offset == 5


async def test_no_record_of_a_time_or_later_is_missed(
    kafka: KafkaSettings, publisher: KafkaPublisher, topic: str
) -> None:
    await publish(publisher, topic, 60)
    now = datetime.now(UTC)
    async with BoundedReader(kafka, topic) as reader:
        early, late = (
            await reader.offsets_at(now - timedelta(hours=1)),
            await reader.offsets_at(now + timedelta(hours=1)),
        )
        assert early == dict.fromkeys(range(3), 0)
        assert all(late[number] <= extent.end for number, extent in reader.extents.items())


async def test_an_empty_topic_ends_at_once(kafka: KafkaSettings, topic: str) -> None:
    async with BoundedReader(kafka, topic) as reader:
        assert reader.extents == dict.fromkeys(range(3), Extent(0, 0))
        assert await read(reader) == {0: [], 1: [], 2: []}


async def test_a_broker_that_is_not_there_is_named(kafka: KafkaSettings) -> None:
    nowhere = kafka.model_copy(update={"request_timeout_s": 1.0, "bootstrap": "127.0.0.1:1"})
    with pytest.raises(Unavailable, match=r"cannot read leyden\.events\.v1 at 127\.0\.0\.1:1"):
        async with BoundedReader(nowhere, Topics.EVENTS.name):
            pass
