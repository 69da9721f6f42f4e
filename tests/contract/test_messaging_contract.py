"""What the messaging seam promises, held against a real broker (embedded, or ``LEYDEN_TEST_KAFKA``)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from leyden_platform.messaging import (
    ConsumerGroup,
    FailurePolicy,
    KafkaPublisher,
    LogReader,
    MemoryPublisher,
    OffsetTracker,
    Partition,
    PoisonedStream,
    Processor,
    Publisher,
    PublishFailed,
    Record,
    Rejected,
    Unavailable,
    ensure_topics,
)
from leyden_platform.settings import KafkaSettings
from leyden_schemas import DeadLetter, Task, Topic, Topics, encode

pytestmark = pytest.mark.kafka

DEADLINE_S = 40.0
LIMIT = 64 * 1024
QUICK = FailurePolicy(attempts=2, backoff_s=0.01)


def counted(name: str, label: str, topic: str) -> dict[str, float]:
    """A counter by the values of ``label``, of a test's own topic: all of it was counted in that test."""
    return {
        sample.labels[label]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == name and sample.labels["topic"] == topic
    }


def letters_counted(topic: str) -> dict[str, float]:
    """Dead letters by reason."""
    return counted("leyden_deadletters_total", "reason", topic)


def messages_counted(topic: str) -> dict[str, float]:
    """Messages by result."""
    return counted("leyden_consumer_messages_total", "result", topic)


class Recorder:
    """A processor that keeps records, holds offsets open on request and fails on request."""

    def __init__(
        self,
        log: list[Record],
        hold: set[bytes],
        handle: Callable[[Record], None],
        gate: asyncio.Event | None = None,
    ) -> None:
        self.log, self._hold, self._handle, self._gate = log, hold, handle, gate
        self.offsets: list[int] = []
        self.tracker = OffsetTracker()
        self.drained = self.closed = False

    async def handle(self, record: Record) -> None:
        self._handle(record)
        if record.key in self._hold:
            self.tracker.begin(record.offset)
        self.log.append(record)
        self.offsets.append(record.offset)
        if self._gate:
            await self._gate.wait()

    async def tick(self) -> None: ...

    def watermark(self) -> int | None:
        return self.tracker.low()

    async def drain(self) -> None:
        self.drained = True

    async def close(self) -> None:
        self.closed = True


class Group:
    """One member of a consumer group under test."""

    def __init__(self, kafka: KafkaSettings, topic: str, publisher: KafkaPublisher, group: str) -> None:
        self.log: list[Record] = []
        self.hold: set[bytes] = set()
        self.on_record: Callable[[Record], None] = lambda record: None
        self.processors: list[Recorder] = []
        self.gate: asyncio.Event | None = None
        self.consumer = ConsumerGroup(
            kafka,
            topics=[topic],
            group=group,
            factory=self._factory,
            publisher=publisher,
            policy=QUICK,
            tick_s=0.05,
        )

    def _factory(self, _partition: Partition) -> Processor:
        self.processors.append(
            Recorder(self.log, self.hold, lambda record: self.on_record(record), self.gate)
        )
        return self.processors[-1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Group"]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.consumer.run(stop))
        try:
            yield self
            stop.set()
            await asyncio.wait_for(task, DEADLINE_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def crashing(self) -> AsyncIterator["Group"]:
        """Run, then die without draining or committing."""
        task = asyncio.create_task(self.consumer.run(asyncio.Event()))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def keys(self) -> list[str]:
        return [(record.key or b"").decode() for record in self.log]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition or fail with what was awaited."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - polling a plain predicate, with a deadline
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE_S} s: {what}")


@pytest.fixture
async def topic(kafka: KafkaSettings) -> str:
    name = f"{Topics.TASKS.name}.test-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(name, partitions=1), Topics.DEADLETTERS])
    return name


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


def task(name: str) -> Task:
    return Task(task_id=name, input={"question": name}, policy="calculator")


async def send(publisher: KafkaPublisher, topic: str, *names: str) -> None:
    await publisher.publish(*(task(name) for name in names), topic=topic)


async def dead_letters(kafka: KafkaSettings, topic: str, count: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, Topics.DEADLETTERS.name) as reader:
        while len(found) < count:
            letters = [record.message() for record in await reader.poll(0.2)]
            found += [letter for letter in letters if letter.source_topic == topic]
    return found


async def test_ensure_topics_is_idempotent(kafka: KafkaSettings) -> None:
    topic = Topic(f"leyden.tasks.v1.{uuid4().hex[:8]}", partitions=2)
    assert await ensure_topics(kafka, [topic]) == [topic.name]
    assert await ensure_topics(kafka, [topic]) == []


async def test_unreachable_broker_is_named(kafka: KafkaSettings) -> None:
    nowhere = KafkaSettings(bootstrap="127.0.0.1:1", request_timeout_s=1)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await KafkaPublisher(nowhere, "test").start()


async def test_records_arrive_in_order_with_their_headers(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    await send(publisher, topic, "a", "b", "c")
    async with Group(kafka, topic, publisher, uuid4().hex).running() as group:
        await until(lambda: len(group.log) == 3, "three records")
    assert group.keys() == ["a", "b", "c"]
    assert group.log[0].message() == task("a")
    assert group.log[0].headers["ce_type"] == "dev.leyden.Task"
    assert group.processors[0].drained
    assert group.processors[0].closed


class Sink:
    """A publisher, the topic it writes to, and a way to see what is there."""

    def __init__(
        self, publisher: Publisher, topic: str, read: Callable[[int], Awaitable[list[object]]]
    ) -> None:
        self.publisher, self.topic, self.read = publisher, topic, read


@pytest.fixture(params=["memory", "kafka"])
def sink(request: pytest.FixtureRequest, kafka: KafkaSettings, topic: str, publisher: KafkaPublisher) -> Sink:
    memory = MemoryPublisher()

    async def remembered(_count: int) -> list[object]:
        return list(memory.published)

    async def logged(count: int) -> list[object]:
        found: list[Record] = []
        async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
            while len(found) < count:
                found += await reader.poll(0.2)
        return [record.message() for record in found]

    if request.param == "memory":
        return Sink(memory, topic, remembered)
    return Sink(publisher, topic, logged)


async def test_encoded_messages_are_those_that_were_encoded_in_order(sink: Sink) -> None:
    await sink.publisher.publish(task("a"), task("b"), topic=sink.topic)
    await sink.publisher.publish_encoded(sink.topic, b"c", encode(task("c")), [("ce_id", b"1")])
    await sink.publisher.publish(task("d"), topic=sink.topic)
    assert await sink.read(4) == [task("a"), task("b"), task("c"), task("d")]


async def test_encoded_records_keep_key_and_headers(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    await publisher.publish_encoded(topic, b"k", b"\xff", [("ce_id", b"1"), ("traceparent", b"00-a-b-01")])
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
        while not (found := await reader.poll(0.2)):
            pass
    assert (found[0].key, found[0].value) == (b"k", b"\xff")
    assert found[0].headers == {"ce_id": "1", "traceparent": "00-a-b-01"}


@pytest.mark.parametrize("size", [LIMIT, 3 * LIMIT])
async def test_what_is_too_large_is_rejected_alone(kafka: KafkaSettings, topic: str, size: int) -> None:
    small = KafkaPublisher(kafka.model_copy(update={"max_message_bytes": LIMIT}), "test")
    await small.start()
    try:
        with pytest.raises(Rejected, match="LEYDEN_KAFKA_MAX_MESSAGE_BYTES") as rejected:
            await small.publish_encoded(topic, b"k", b"x" * size, [])
        assert rejected.value.reason == "too_large"
        await small.publish_encoded(topic, b"k", b"x" * (LIMIT // 2), [])
    finally:
        await small.stop()


async def test_a_stopped_publisher_refuses(kafka: KafkaSettings, topic: str) -> None:
    stopped = KafkaPublisher(kafka, "test")
    await stopped.start()
    await stopped.stop()
    with pytest.raises(PublishFailed, match="not started"):
        await stopped.publish_encoded(topic, b"k", b"v", [])


async def test_what_is_on_its_way_when_a_publisher_stops_is_flushed(kafka: KafkaSettings, topic: str) -> None:
    leaving = KafkaPublisher(kafka, "test")
    await leaving.start()
    sending = [
        asyncio.create_task(leaving.publish_encoded(topic, b"k", encode(task(f"{n}")), [])) for n in range(50)
    ]
    await asyncio.sleep(0)
    await leaving.stop()
    await asyncio.gather(*sending)
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic) as reader:
        found: list[Record] = []
        while len(found) < 50:
            found += await reader.poll(0.2)
    assert [record.message().task_id for record in found] == [f"{n}" for n in range(50)]


async def test_a_restart_begins_at_the_low_watermark(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    name = uuid4().hex
    first = Group(kafka, topic, publisher, name)
    first.hold = {b"b"}
    await send(publisher, topic, "a", "b", "c")
    async with first.running():
        await until(lambda: len(first.log) == 3, "three records")
    async with Group(kafka, topic, publisher, name).running() as second:
        await until(lambda: len(second.log) == 2, "the open record and those behind it")
    assert second.keys() == ["b", "c"]
    async with Group(kafka, topic, publisher, name).running() as third:
        await send(publisher, topic, "d")
        await until(lambda: len(third.log) >= 1, "the next record")
    assert third.keys() == ["d"]


async def test_a_crash_loses_nothing(kafka: KafkaSettings, topic: str, publisher: KafkaPublisher) -> None:
    name = uuid4().hex
    first = Group(kafka, topic, publisher, name)
    first.hold = {b"a"}
    await send(publisher, topic, "a", "b")
    async with first.crashing():
        await until(lambda: len(first.log) == 2, "both records")
    async with Group(kafka, topic, publisher, name).running() as second:
        await until(lambda: len(second.log) == 2, "both records again")
    assert second.keys() == ["a", "b"]


async def test_bad_bytes_are_dead_lettered_and_the_rest_goes_on(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    await publisher.publish_raw(topic, b"bad", b"\xff\xfe not json", {"x-origin": "elsewhere"})
    await send(publisher, topic, "good")
    group = Group(kafka, topic, publisher, uuid4().hex)
    group.on_record = lambda record: record.message()
    async with group.running():
        await until(lambda: group.keys() == ["good"], "the good record")
    (letter,) = await dead_letters(kafka, topic, 1)
    assert letter.value == b"\xff\xfe not json"
    assert (letter.reason, letter.source_key, letter.source_offset) == ("malformed", "bad", 0)
    assert letter.source_headers["x-origin"] == "elsewhere"
    assert not letter.truncated
    assert letters_counted(topic) == {"malformed": 1}
    assert messages_counted(topic) == {"dead_lettered": 1, "processed": 1}


async def test_header_bytes_that_are_not_text_disturb_nothing(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    assert publisher._producer is not None
    await publisher._producer.send_and_wait(topic, b"{}", key=b"k", headers=[("h", b"\xff")])
    async with Group(kafka, topic, publisher, uuid4().hex).running() as group:
        await until(lambda: len(group.log) == 1, "the record")
    assert group.log[0].headers["h"] == "�"


async def test_a_failing_handler_is_retried_then_dead_lettered(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    seen: list[str] = []

    def fail(record: Record) -> None:
        seen.append((record.key or b"").decode())
        if record.key == b"x":
            raise ZeroDivisionError("boom")

    group = Group(kafka, topic, publisher, uuid4().hex)
    group.on_record = fail
    await send(publisher, topic, "x", "y")
    async with group.running():
        await until(lambda: group.keys() == ["y"], "the record behind the failing one")
    assert seen == ["x", "x", "y"]
    (letter,) = await dead_letters(kafka, topic, 1)
    assert (letter.reason, letter.attempts) == ("failed", 2)
    assert "ZeroDivisionError: boom" in letter.error
    assert letters_counted(topic) == {"failed": 1}
    assert messages_counted(topic) == {"retried": 1, "dead_lettered": 1, "processed": 1}


async def test_rejection_is_not_retried(kafka: KafkaSettings, topic: str, publisher: KafkaPublisher) -> None:
    calls = 0

    def reject(record: Record) -> None:
        nonlocal calls
        calls += 1
        raise Rejected("unknown_policy", "policy 'x' is unknown; known: calculator")

    group = Group(kafka, topic, publisher, uuid4().hex)
    group.on_record = reject
    await send(publisher, topic, "x")
    async with group.running():
        (letter,) = await dead_letters(kafka, topic, 1)
    assert (letter.reason, calls) == ("unknown_policy", 1)
    assert "known: calculator" in letter.error
    assert letters_counted(topic) == {"unknown_policy": 1}
    assert messages_counted(topic) == {"dead_lettered": 1}


async def test_unavailable_waits_instead_of_dead_lettering(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    failures = 5

    def away(_record: Record) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable("the database is away")

    group = Group(kafka, topic, publisher, uuid4().hex)
    group.on_record = away
    await send(publisher, topic, "x")
    async with group.running():
        await until(lambda: group.keys() == ["x"], "the record, once the dependency is back")
    assert failures == 0
    assert letters_counted(topic) == {}
    assert messages_counted(topic) == {"processed": 1}


async def test_a_poisoned_stream_stops_the_consumer(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    for _ in range(8):
        await publisher.publish_raw(topic, None, b"nonsense")
    consumer = ConsumerGroup(
        kafka,
        topics=[topic],
        group=uuid4().hex,
        factory=lambda _p: Recorder([], set(), lambda record: record.message()),
        publisher=publisher,
        policy=FailurePolicy(window=10, bad_minimum=5),
        tick_s=0.05,
    )
    with pytest.raises(PoisonedStream, match="5 of the last 10"):
        await asyncio.wait_for(consumer.run(asyncio.Event()), DEADLINE_S)


async def test_a_large_message_is_dead_lettered_with_its_beginning(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    large = KafkaSettings(**{**kafka.model_dump(), "max_message_bytes": 21 * 1024 * 1024})
    sender = KafkaPublisher(large, "test")
    await sender.start()
    size = 5 * 1024 * 1024
    await sender.publish_raw(topic, b"big", b"x" * size)
    await sender.stop()
    await send(publisher, topic, "small")
    group = Group(kafka, topic, publisher, uuid4().hex)
    group.on_record = lambda record: record.message()
    async with group.running():
        await until(lambda: group.keys() == ["small"], "the record behind the large one")
    (letter,) = await dead_letters(kafka, topic, 1)
    assert (letter.size, letter.truncated, len(letter.value)) == (size, True, 512 * 1024)
    assert letters_counted(topic) == {"malformed": 1}
    assert messages_counted(topic) == {"dead_lettered": 1, "processed": 1}


async def test_two_members_share_the_partitions_and_hand_over(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    topic = f"{Topics.TASKS.name}.test-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(topic, partitions=4), Topics.DEADLETTERS])
    name = uuid4().hex
    first, second = (Group(kafka, topic, publisher, name) for _ in range(2))
    async with first.running():
        await send(publisher, topic, *(f"before-{i}" for i in range(20)))
        await until(lambda: len(first.log) == 20, "the first member takes all")
        async with second.running():
            await until(lambda: bool(second.processors), "the second member gets partitions")
            await send(publisher, topic, *(f"both-{i}" for i in range(40)))
            await until(
                lambda: len({*first.keys(), *second.keys()}) == 60, "every record by one of the members"
            )
        await send(publisher, topic, *(f"after-{i}" for i in range(20)))
        await until(
            lambda: sum(k.startswith("after") for k in list(first.keys())) >= 20, "the first takes over"
        )
    assert any(key.startswith("both") for key in list(second.keys()))


async def test_positions_resume_a_reader(kafka: KafkaSettings, topic: str, publisher: KafkaPublisher) -> None:
    await send(publisher, topic, "a", "b", "c")
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic, {0: 1}) as reader:
        found: list[Record] = []
        while len(found) < 2:
            found += await reader.poll(0.2)
        assert [record.key for record in found] == [b"b", b"c"]
        assert await reader.positions() == {0: 3}


async def test_a_rebalance_in_the_middle_of_a_batch_loses_nothing(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    """The rest of a batch fetched before a rebalance never reaches the processor made after it."""
    topic = f"{Topics.TASKS.name}.test-{uuid4().hex[:10]}"
    await ensure_topics(kafka, [Topic(topic, partitions=4), Topics.DEADLETTERS])
    await send(publisher, topic, *(f"{i}" for i in range(40)))
    name, gate = uuid4().hex, asyncio.Event()
    first, second = (Group(kafka, topic, publisher, name) for _ in range(2))
    first.gate = gate
    async with first.running():
        await until(lambda: len(first.log) == 1, "the first record is in hand")
        async with second.running():
            await until(lambda: len(first.processors) > 4, "the rebalance went by")
            gate.set()
            await until(
                lambda: {*first.keys(), *second.keys()} >= {f"{i}" for i in range(40)}, "every record"
            )
    for processor in [*first.processors, *second.processors]:
        taken = processor.offsets
        assert taken == list(range(taken[0], taken[0] + len(taken))) if taken else True, (
            "no gap, no step back"
        )


async def test_a_position_past_the_end_starts_at_the_beginning(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher
) -> None:
    await send(publisher, topic, "a", "b")
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic, {0: 500}) as reader:
        found: list[Record] = []
        while len(found) < 2:
            found += await reader.poll(0.2)
    assert [record.key for record in found] == [b"a", b"b"]
