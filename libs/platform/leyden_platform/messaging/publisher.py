"""Publishing with acknowledgement, and a fake that keeps what was published for unit tests."""

import asyncio
import contextlib
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from leyden_platform.messaging.batches import Batches, count, too_large
from leyden_platform.messaging.errors import PublishFailed
from leyden_platform.messaging.inflight import InFlight
from leyden_platform.messaging.producer import create_producer, estimated_size, key_hash
from leyden_platform.settings import KafkaSettings
from leyden_platform.telemetry import trace_headers
from leyden_schemas import Message, cause_id, decode, encode

MAX_BYTES_IN_FLIGHT = 64 * 1024 * 1024
"""Keys and values that one publisher has unacknowledged before it lets callers wait."""

BYTES_IN_FLIGHT = Gauge(
    "leyden_publisher_bytes_in_flight", "Bytes of keys and values published and not acknowledged yet."
)

_FLUSH_S = 5.0

Headers: TypeAlias = Sequence[tuple[str, bytes]]


class Publisher(Protocol):
    """Where a service puts messages."""

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Return once all are acknowledged. Raises ``PublishFailed``; ``Rejected`` when one is too large."""
        ...

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Publish bytes as they are. Raises like ``publish``."""
        ...

    async def publish_encoded(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Publish a message that the caller encoded, for hot paths. Raises like ``publish``."""
        ...


def cloud_event_headers(message: Message, source: str, key: str) -> dict[str, str]:
    """CloudEvents attributes (binary mode) and the current trace context."""
    kind = str(getattr(message, "type", type(message).__name__))
    identity = getattr(message, "event_id", None) or cause_id("ce", kind, key)
    return {
        "ce_specversion": "1.0",
        "ce_id": str(identity),
        "ce_type": f"dev.leyden.{kind}",
        "ce_source": f"/leyden/{source}",
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
        **trace_headers(),
    }


class KafkaPublisher:
    """A producer that waits for all in-sync replicas. A component: start it before what publishes.

    ``timeout_s`` bounds the wait for an acknowledgement and, before it, for room among
    ``max_bytes_in_flight``; by default it is twice the request timeout, which leaves room for a retry.
    A record that was given up may still arrive, and is in flight until the client gives it up too.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        source: str,
        *,
        timeout_s: float | None = None,
        max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
    ) -> None:
        self.name = "publisher"
        self._settings, self._source = settings, source
        self._timeout_s = timeout_s or settings.request_timeout_s * 2
        self._in_flight = InFlight(max_bytes_in_flight)
        self._producer: AIOKafkaProducer | None = None
        self._batches: Batches | None = None

    async def start(self) -> None:
        """Connect. Raises ``PublishFailed`` naming the bootstrap address when the broker is unreachable."""
        producer = create_producer(self._settings)
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            raise PublishFailed(f"cannot reach Kafka at {self._settings.bootstrap}: {error}") from error
        self._batches = Batches(
            producer, self._settings, timeout_s=self._timeout_s, released=self._in_flight.give_back
        )
        self._producer = producer
        BYTES_IN_FLIGHT.set_function(lambda: self._in_flight.held)

    async def stop(self) -> None:
        """Flush, for at most ``_FLUSH_S``, and disconnect."""
        producer, batches = self._producer, self._batches
        self._producer = self._batches = None
        if producer and batches:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await batches.flush()
                    await producer.stop()

    def not_ready(self) -> str | None:
        """Ready once connected."""
        return None if self._producer else "not connected to Kafka"

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until ``stop``."""
        if not self._producer:
            await self.start()
        await stop.wait()
        await self.stop()

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Publish all, in order, and wait until every one is acknowledged."""
        waiters: list[asyncio.Future[None]] = []
        try:
            for message in messages:
                key = message.key()
                headers = _encoded(cloud_event_headers(message, self._source, key))
                waiters.append(
                    await self._add(topic or message.topic.name, key.encode(), encode(message), headers)
                )
            for waiter in waiters:
                await waiter
        except BaseException:
            _abandon(waiters)
            raise

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Publish bytes as they are and wait for the acknowledgement."""
        await (await self._add(topic, key, value, _encoded(headers or {})))

    async def publish_encoded(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Publish what the caller encoded and wait for the acknowledgement."""
        await (await self._add(topic, key, value, list(headers)))

    async def _add(
        self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
    ) -> "asyncio.Future[None]":
        """Put a record into its partition's batch; what is returned ends with the acknowledgement."""
        if self._producer is None or self._batches is None:
            raise PublishFailed("the publisher is not started")
        size = len(value) + len(key or b"")
        if size * 2 > self._settings.max_message_bytes:
            self._check_size(topic, key, value, headers)
        if not self._in_flight.take_now(size):
            await self._take(topic, size)
        try:
            partitions = len(await self._producer.partitions_for(topic))
            partition = random.randrange(partitions) if key is None else key_hash(key) % partitions
            return self._batches.add(topic, partition, key, value, headers, size)
        except BaseException as error:
            self._in_flight.give_back(size)
            if not isinstance(error, KafkaError):
                raise
            count(topic, 1, type(error).__name__)
            raise PublishFailed(f"{topic}: {type(error).__name__}: {error}") from error

    async def _take(self, topic: str, size: int) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._in_flight.take(size)
        except TimeoutError:
            count(topic, 1, "no_room")
            raise PublishFailed(
                f"{topic}: {self._in_flight.held} bytes still wait for the broker after {self._timeout_s:g} s"
            ) from None

    def _check_size(
        self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]
    ) -> None:
        if estimated_size(key, value, headers) > self._settings.max_message_bytes:
            count(topic, 1, "too_large")
            raise too_large(topic)


def _abandon(waiters: Iterable[asyncio.Future[None]]) -> None:
    """Nobody waits for these any more, and how they end is not reported as forgotten."""
    for waiter in waiters:
        if not waiter.cancel() and not waiter.cancelled():
            waiter.exception()


def _encoded(headers: dict[str, str]) -> list[tuple[str, bytes]]:
    return [(name, text.encode()) for name, text in headers.items()]


class MemoryPublisher:
    """Keeps what was published, for unit tests of what a service decides."""

    def __init__(self) -> None:
        self.name = "publisher"
        self.raw: list[tuple[str, bytes | None, bytes, dict[str, str]]] = []
        self.encoded: list[tuple[str, bytes, bytes, Headers]] = []
        self._kept: list[Message | tuple[str, bytes]] = []

    @property
    def published(self) -> list[Message]:
        """Every message that was not published raw, in order; encoded ones are decoded when asked for."""
        return [decode(*kept) if isinstance(kept, tuple) else kept for kept in self._kept]

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Remember the messages, in order."""
        for message in messages:
            encode(message)
            self._kept.append(message)

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Remember the bytes."""
        self.raw.append((topic, key, value, headers or {}))

    async def publish_encoded(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Remember the record; what it holds is looked at when ``published`` is."""
        self.encoded.append((topic, key, value, headers))
        self._kept.append((topic, value))
