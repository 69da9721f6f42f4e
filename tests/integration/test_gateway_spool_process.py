"""The spool with real processes that die and a real broker that goes away and comes back."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import spool_process
from await_port import await_port
from spool_process import KEYS, value

from leyden_gateway.recording.settings import RecordingSettings
from leyden_gateway.recording.spool import Spool
from leyden_local import broker
from leyden_local.ports import free_ports
from leyden_platform.messaging import KafkaPublisher, LogReader, PublishFailed, ensure_topics
from leyden_platform.messaging.publisher import Headers
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic

pytestmark = pytest.mark.kafka

DEADLINE_S = 40.0
RECORDS = 40


@pytest.fixture
async def topic(kafka: KafkaSettings) -> str:
    name = f"spooled-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(name, partitions=2)])
    return name


@asynccontextmanager
async def draining(folder: Path, publisher: KafkaPublisher) -> AsyncIterator[Spool]:
    spool = await Spool.open(RecordingSettings(spool_dir=folder), publisher)
    assert spool
    stop = asyncio.Event()
    task = asyncio.create_task(spool.run(stop))
    try:
        yield spool
    finally:
        stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


async def drained(spool: Spool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while spool.depth:  # noqa: ASYNC110 - polling a plain value, with a deadline
            await asyncio.sleep(0.01)


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, spool_process.__file__, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_after_putting(folder: Path, topic: str, count: int) -> int:
    """Kill a process once ``count`` records were safe; how many were when it died."""
    with started(folder, "put", topic) as process:
        assert process.stdout
        for line in process.stdout:
            if int(line) + 1 >= count:
                process.kill()
                break
        return max([count, *(int(line) + 1 for line in process.stdout)])


async def numbers(kafka: KafkaSettings, topic: str, count: int) -> list[int]:
    """The numbers on the topic, in each key's order, read until ``count`` were seen and nothing follows."""
    found: list[int] = []
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
        while (records := await reader.poll(0.5)) or len(set(found)) < count:
            for record in records:
                number = int(record.headers["ce_id"])
                assert record.value == value(number)
                found.append(number)
    return found


def of_key(found: list[int], key: int) -> list[int]:
    return [number for number in found if number % KEYS == key]


async def test_a_killed_process_loses_nothing_that_was_put(
    kafka: KafkaSettings, topic: str, tmp_path: Path
) -> None:
    safe = await asyncio.to_thread(killed_after_putting, tmp_path, topic, RECORDS)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    async with draining(tmp_path, publisher) as spool:
        assert spool.depth in (safe, safe + 1), "the one being put may be there too"
        depth = spool.depth
        await drained(spool)
    await publisher.stop()
    found = await numbers(kafka, topic, depth)
    assert sorted(found) == list(range(depth)), "each once"
    for key in range(KEYS):
        assert of_key(found, key) == list(range(key, depth, KEYS))


async def test_a_process_killed_while_draining_repeats_but_loses_nothing(
    kafka: KafkaSettings, topic: str, tmp_path: Path
) -> None:
    safe = await asyncio.to_thread(killed_after_putting, tmp_path, topic, 8 * RECORDS)
    with started(tmp_path, "drain", kafka.bootstrap) as process:
        async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
            while not await reader.poll(0.01):
                pass
        process.kill()
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    async with draining(tmp_path, publisher) as spool:
        await drained(spool)
    await publisher.stop()
    found = await numbers(kafka, topic, safe)
    for key in range(KEYS):
        mine = of_key(found, key)
        assert list(dict.fromkeys(mine)) == list(range(key, max(found) + 1, KEYS)), "first seen in order"


class Broker:
    """A broker of the test's own, which keeps nothing when it dies."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.kafka = KafkaSettings(
            bootstrap=f"127.0.0.1:{self.port}", idempotent=False, request_timeout_s=1, session_timeout_s=3
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            broker.broker_command(self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await_port(self._process, self.port)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


class HeldPublisher(KafkaPublisher):
    """Publishes nothing while held.

    The embedded broker acknowledges, and loses, what is sent to a topic it does not know; Apache Kafka
    refuses it. So nothing may be sent between its return and that of the topic.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        super().__init__(kafka, "test", timeout_s=1)
        self._free, self._refused = asyncio.Event(), asyncio.Event()
        self._free.set()

    async def hold(self) -> None:
        """Returns when nothing is under way any more."""
        self._free.clear()
        self._refused.clear()
        async with asyncio.timeout(DEADLINE_S):
            await self._refused.wait()

    def release(self) -> None:
        self._free.set()

    async def publish_encoded(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        if not self._free.is_set():
            self._refused.set()
            raise PublishFailed("held")
        await super().publish_encoded(topic, key, value, headers)


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    own = Broker()
    yield own
    own.kill()


async def test_records_wait_for_a_broker_that_comes_back(own_broker: Broker, tmp_path: Path) -> None:
    topic = f"spooled-{uuid4().hex[:10]}"
    await asyncio.to_thread(own_broker.start)
    await ensure_topics(own_broker.kafka, [Topic(topic, partitions=2)])
    publisher = HeldPublisher(own_broker.kafka)
    await publisher.start()
    await publisher.publish_encoded(topic, b"key-0", value(0), [("ce_id", b"0")])
    own_broker.kill()
    async with draining(tmp_path, publisher) as spool:
        with pytest.raises(PublishFailed):
            await publisher.publish_encoded(topic, b"key-0", value(0), [("ce_id", b"0")])
        for number in range(RECORDS):
            await spool.put(topic, b"key-%d" % (number % KEYS), value(number), [("ce_id", b"%d" % number)])
        await publisher.hold()
        await asyncio.to_thread(own_broker.start)
        await ensure_topics(own_broker.kafka, [Topic(topic, partitions=2)])
        publisher.release()
        await drained(spool)
    await publisher.stop()
    found = await numbers(own_broker.kafka, topic, RECORDS)
    for key in range(KEYS):
        assert list(dict.fromkeys(of_key(found, key))) == list(range(key, RECORDS, KEYS))
