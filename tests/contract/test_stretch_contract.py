"""A stretch of the log, read again from a real broker: all of it, nothing of what lies outside."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from leyden_platform.messaging import Record, Unavailable, ensure_topics, read_stretch
from leyden_platform.messaging.stretch import Moment
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic

pytestmark = pytest.mark.kafka

PARTITIONS, RECORDS = 3, 1_200


@pytest.fixture
async def topic(kafka: KafkaSettings) -> str:
    """A record a second on each partition, the last one a minute ago, sent in batches."""
    name = f"stretch-{uuid4().hex}"
    await ensure_topics(kafka, [Topic(name, partitions=PARTITIONS)])
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50)
    await producer.start()
    newest = datetime.now(UTC) - timedelta(minutes=1)
    sent = []
    for number in range(RECORDS):
        stamp = int((newest - timedelta(seconds=RECORDS - 1 - number)).timestamp() * 1000)
        for partition in range(PARTITIONS):
            value = str(number).encode()
            sent.append(await producer.send(name, value, partition=partition, timestamp_ms=stamp))
    await asyncio.gather(*sent)
    await producer.stop()
    return name


async def read(kafka: KafkaSettings, topic: str, since: Moment, until: Moment, **how: object) -> list[Record]:
    async with asyncio.timeout(30):
        return [r async for r in read_stretch(kafka, topic, since=since, until=until, **how)]  # type: ignore[arg-type]


async def test_offsets_of_one_partition(kafka: KafkaSettings, topic: str) -> None:
    records = await read(kafka, topic, 5, 1_100, partitions=[1])
    assert [record.offset for record in records] == list(range(5, 1_100))
    assert {record.partition.number for record in records} == {1}
    assert [record.value for record in records[:2]] == [b"5", b"6"]


async def test_a_stretch_that_reaches_the_end_has_the_last_record(kafka: KafkaSettings, topic: str) -> None:
    records = await read(kafka, topic, RECORDS - 3, RECORDS, partitions=[2])
    assert [record.value for record in records] == [b"1197", b"1198", b"1199"]
    later = await read(kafka, topic, datetime.now(UTC) - timedelta(days=1), datetime.now(UTC))
    assert len(later) == PARTITIONS * RECORDS


async def test_times_miss_nothing_and_end_in_time(kafka: KafkaSettings, topic: str) -> None:
    newest = datetime.now(UTC) - timedelta(minutes=1)
    since, until = newest - timedelta(seconds=600), newest - timedelta(seconds=300)
    records = await read(kafka, topic, since, until)
    for partition in range(PARTITIONS):
        times = [r.timestamp_ms / 1000 for r in records if r.partition.number == partition]
        assert 299 <= len(times) <= 301
        assert since.timestamp() <= min(times) <= max(times) < until.timestamp()
        assert times == sorted(times)


@pytest.mark.parametrize(("since", "until"), [(RECORDS, RECORDS + 5), (7, 7), (9, 3)])
async def test_nothing_is_nothing(kafka: KafkaSettings, topic: str, since: int, until: int) -> None:
    assert await read(kafka, topic, since, until, partitions=[0]) == []


async def test_times_after_the_end_are_nothing(kafka: KafkaSettings, topic: str) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    assert await read(kafka, topic, future, future + timedelta(days=1)) == []


async def test_a_broker_that_is_away(topic: str) -> None:
    nowhere = KafkaSettings(bootstrap="127.0.0.1:1", request_timeout_s=1.0)
    with pytest.raises(Unavailable, match="cannot read"):
        await read(nowhere, topic, 0, 1)
