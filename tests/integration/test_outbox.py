"""The outbox and its relay against a real Postgres; the broker is a fake where the test must break it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import MetaData, Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from leyden_platform.database import (
    Order,
    OutboxRelay,
    create_engine,
    enqueue,
    outbox_table,
    transaction,
)
from leyden_platform.messaging import (
    KafkaPublisher,
    LogReader,
    MemoryPublisher,
    PublishFailed,
    Rejected,
    ensure_topics,
)
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import Message, Topic, new_id

pytestmark = pytest.mark.postgres
DEADLINE_S = 20.0


class Noted(Message):
    """A message of these tests, on a topic of its own."""

    topic: ClassVar[Topic] = Topic(f"outbox-test-{new_id()}", partitions=1)
    number: int
    about: str = "note"

    def key(self) -> str:
        """By default all share a key, hence an order."""
        return self.about


class Flaky(MemoryPublisher):
    """Fails each message while ``failure`` is set."""

    failure: Exception | None = None
    tried: int = 0

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Remember the bytes, or raise ``failure``."""
        self.tried += 1
        if self.failure:
            raise self.failure
        await super().publish_raw(topic, key, value, headers)


def numbers(publisher: MemoryPublisher) -> list[int]:
    """What was published, in order."""
    return [Noted.model_validate_json(value).number for _topic, _key, value, _headers in publisher.raw]


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait for a condition, at most ``DEADLINE_S``."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = condition()
            if found is True or (isinstance(found, Awaitable) and await found):
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*relays: OutboxRelay) -> AsyncIterator[None]:
    """The relays at work; stopped gracefully at the end."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


class Box:
    """An outbox in a database of its own."""

    def __init__(self, engine: AsyncEngine, table: Table) -> None:
        self.engine, self.table = engine, table

    async def put(self, *values: int) -> None:
        """Commit messages."""
        async with transaction(self.engine) as connection:
            await enqueue(connection, self.table, *(Noted(number=value) for value in values))

    async def size(self) -> int:
        """Rows left."""
        async with transaction(self.engine) as connection:
            return await connection.scalar(select(func.count()).select_from(self.table)) or 0

    async def empty(self) -> bool:
        """Whether everything was relayed."""
        return await self.size() == 0

    def relay(self, publisher: MemoryPublisher, poll_s: float = 0.1) -> OutboxRelay:
        """A relay of this outbox."""
        return OutboxRelay(self.engine, self.table, publisher, "test", poll_s=poll_s)


@pytest.fixture
async def box(database: DatabaseSettings) -> AsyncIterator[Box]:
    """An empty outbox in the schema ``test``."""
    metadata = MetaData(schema="test")
    table = outbox_table(metadata)
    engine = create_engine(database)
    async with transaction(engine) as connection:
        await connection.execute(text("CREATE SCHEMA test"))
        await connection.run_sync(metadata.create_all)
    yield Box(engine, table)
    await engine.dispose()


async def test_only_what_is_committed_is_relayed(box: Box) -> None:
    publisher = MemoryPublisher()
    relay = box.relay(publisher)

    async def roll_back() -> None:
        async with transaction(box.engine) as connection:
            await enqueue(connection, box.table, Noted(number=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await roll_back()
    await box.put(2)
    assert await relay.relay() == 1
    assert await relay.relay() == 0
    assert numbers(publisher) == [2]


async def test_messages_carry_key_and_cloud_event_headers(box: Box) -> None:
    publisher = MemoryPublisher()
    await box.put(7)
    await box.relay(publisher).relay()
    ((topic, key, value, headers),) = publisher.raw
    assert (topic, key) == (Noted.topic.name, b"note")
    assert Noted.model_validate_json(value) == Noted(number=7)
    assert headers["ce_type"] == "dev.leyden.Noted"
    assert headers["ce_source"] == "/leyden/test"


async def test_a_wake_publishes_at_once(box: Box) -> None:
    publisher = MemoryPublisher()
    relay = box.relay(publisher, poll_s=3600)
    async with running(relay):
        await until(lambda: relay.not_ready() is None)
        await box.put(1)
        relay.wake()
        await until(lambda: numbers(publisher) == [1])


async def test_rows_of_another_process_are_found_by_polling(box: Box) -> None:
    publisher = MemoryPublisher()
    await box.put(1)
    async with running(box.relay(publisher)):
        await until(lambda: numbers(publisher) == [1])
        await box.put(2)
        await until(lambda: numbers(publisher) == [1, 2])
        await until(box.empty)


async def test_replicas_together_publish_each_message_once_and_in_order(box: Box) -> None:
    publisher = MemoryPublisher()
    await box.put(*range(250))
    async with running(*(box.relay(publisher, poll_s=0.01) for _ in range(3))):
        for start in range(250, 500, 10):
            await box.put(*range(start, start + 10))
        await until(box.empty)
    assert numbers(publisher) == list(range(500))


async def test_nothing_is_lost_while_kafka_is_away(box: Box) -> None:
    publisher = Flaky()
    publisher.failure = PublishFailed("no broker")
    await box.put(1, 2)
    relay = box.relay(publisher)
    async with running(relay):
        await until(lambda: publisher.tried >= 2)
        assert relay.not_ready() is None
        assert REGISTRY.get_sample_value("leyden_outbox_pending", {"outbox": "test"}) == 2
        publisher.failure = None
        await until(box.empty)
    assert numbers(publisher) == [1, 2]
    assert REGISTRY.get_sample_value("leyden_outbox_pending", {"outbox": "test"}) == 0


async def test_what_was_acknowledged_before_a_failure_is_not_sent_again(box: Box) -> None:
    class Third(MemoryPublisher):
        async def publish_raw(self, *args: Any, **kwargs: Any) -> None:
            if len(self.raw) == 2:
                raise PublishFailed("the broker left")
            await super().publish_raw(*args, **kwargs)

    first, second = Third(), MemoryPublisher()
    await box.put(1, 2, 3)
    with pytest.raises(PublishFailed):
        await box.relay(first).relay()
    await box.relay(second).relay()
    assert (numbers(first), numbers(second)) == ([1, 2], [3])


async def test_a_message_the_broker_refuses_is_kept_and_blocks_nobody(box: Box) -> None:
    class TooLarge(MemoryPublisher):
        async def publish_raw(
            self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
        ) -> None:
            if Noted.model_validate_json(value).number == 1:
                raise Rejected("too_large", "a message is larger than the broker takes")
            await super().publish_raw(topic, key, value, headers)

    publisher = TooLarge()
    await box.put(1, 2)
    relay = box.relay(publisher)
    await relay.relay()
    assert await relay.relay() == 0
    assert numbers(publisher) == [2]
    async with transaction(box.engine) as connection:
        assert "larger" in str(await connection.scalar(select(box.table.c.refused)))


async def test_a_relay_that_died_in_a_pass_is_succeeded_by_the_next(box: Box) -> None:
    class Stuck(MemoryPublisher):
        async def publish_raw(self, *args: Any, **kwargs: Any) -> None:
            await super().publish_raw(*args, **kwargs)
            await asyncio.Event().wait()

    await box.put(1, 2)
    stuck, publisher = Stuck(), MemoryPublisher()
    dying = asyncio.create_task(box.relay(stuck).relay())
    await until(lambda: len(stuck.raw) == 1)
    assert await box.relay(publisher).relay() == 0, "the first relay holds the outbox"
    dying.cancel()
    await asyncio.wait([dying])
    await box.relay(publisher).relay()
    assert numbers(publisher) == [1, 2], "at least once: 1 was published but its deletion never committed"


async def test_a_lost_database_is_unreadiness_until_it_is_back(box: Box, database: DatabaseSettings) -> None:
    server, name = database.url.get_secret_value().rsplit("/", 1)
    elsewhere = create_engine(DatabaseSettings(url=SecretStr(f"{server}/postgres")))

    async def allow(connections: bool) -> None:
        async with elsewhere.connect() as connection:
            free = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await free.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {connections}'))
            others = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            await free.execute(others, {"name": name})

    publisher = MemoryPublisher()
    relay = box.relay(publisher)
    async with running(relay):
        await until(lambda: relay.not_ready() is None)
        await allow(connections=False)
        await until(lambda: name in (relay.not_ready() or ""))
        await allow(connections=True)
        await until(lambda: relay.not_ready() is None)
        await box.put(1)
        await until(lambda: numbers(publisher) == [1])
    await elsewhere.dispose()


class Gated(MemoryPublisher):
    """Holds every message until ``open``; ``waiting`` are the numbers held now."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[int] = set()
        self.open = asyncio.Event()

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Wait, then remember the bytes."""
        number = Noted.model_validate_json(value).number
        self.waiting.add(number)
        await self.open.wait()
        self.waiting.discard(number)
        await super().publish_raw(topic, key, value, headers)


@pytest.mark.parametrize(("order", "first"), [(Order.KEY, {1, 2}), (Order.ID, {1})])
async def test_what_is_sent_together_depends_on_the_order_asked_for(
    box: Box, order: Order, first: set[int]
) -> None:
    publisher = Gated()
    async with transaction(box.engine) as connection:
        keys = ((1, "a"), (2, "b"), (3, "a"), (4, "c"))
        await enqueue(connection, box.table, *(Noted(number=n, about=about) for n, about in keys))
    relaying = asyncio.create_task(OutboxRelay(box.engine, box.table, publisher, "test", order=order).relay())
    await until(lambda: publisher.waiting == first)
    publisher.open.set()
    assert await relaying == 4
    assert numbers(publisher) == [1, 2, 3, 4]


async def test_a_failure_keeps_the_order_of_its_key_and_lets_other_keys_pass(box: Box) -> None:
    class First(MemoryPublisher):
        async def publish_raw(
            self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
        ) -> None:
            if key == b"a":
                raise PublishFailed("this partition has no leader")
            await super().publish_raw(topic, key, value, headers)

    first, second = First(), MemoryPublisher()
    async with transaction(box.engine) as connection:
        keys = ((1, "a"), (2, "b"), (3, "a"), (4, "b"))
        await enqueue(connection, box.table, *(Noted(number=n, about=about) for n, about in keys))
    with pytest.raises(PublishFailed):
        await box.relay(first).relay()
    await box.relay(second).relay()
    assert (numbers(first), numbers(second)) == ([2], [1, 3, 4])


@pytest.mark.kafka
async def test_a_backlog_reaches_a_real_broker_in_order(box: Box, kafka: KafkaSettings) -> None:
    await ensure_topics(kafka, [Noted.topic])
    await box.put(*range(150))
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    async with running(box.relay(publisher)):  # type: ignore[arg-type]
        await until(box.empty)
    await publisher.stop()
    seen: list[int] = []
    async with LogReader(kafka, Noted.topic.name) as reader, asyncio.timeout(DEADLINE_S):
        while len(seen) < 150:
            seen += [
                Noted.model_validate_json(record.value or b"").number for record in await reader.poll(0.5)
            ]
    assert seen == list(range(150))
