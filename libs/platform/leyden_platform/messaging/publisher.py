"""Publishing with acknowledgement, and a fake that keeps what was published for unit tests."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from prometheus_client import Counter

from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import PublishFailed, Rejected
from leyden_platform.settings import KafkaSettings
from leyden_platform.telemetry import trace_headers
from leyden_schemas import Message, cause_id, encode

_FLUSH_S = 5.0

PUBLISHED = Counter("leyden_published_total", "Messages acknowledged by the broker.", ["topic"])
PUBLISH_FAILED = Counter("leyden_publish_failed_total", "Messages not acknowledged.", ["topic", "reason"])


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
    """A producer that waits for all in-sync replicas. A component: start it before what publishes."""

    def __init__(self, settings: KafkaSettings, source: str) -> None:
        self.name = "publisher"
        self._settings, self._source = settings, source
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect. Raises ``PublishFailed`` naming the bootstrap address when the broker is unreachable."""
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            acks="all",
            enable_idempotence=self._settings.idempotent,
            compression_type=self._settings.compression or None,
            max_request_size=self._settings.max_message_bytes,
            linger_ms=0,
            request_timeout_ms=int(self._settings.request_timeout_s * 1000),
        )
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            raise PublishFailed(f"cannot reach Kafka at {self._settings.bootstrap}: {error}") from error
        self._producer = producer

    async def stop(self) -> None:
        """Flush, for at most ``_FLUSH_S``, and disconnect."""
        producer, self._producer = self._producer, None
        if producer:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(producer.stop(), _FLUSH_S)

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
        """Publish all and wait for the last acknowledgement."""
        await self._gather(
            [
                (
                    topic or message.topic.name,
                    (key := message.key()).encode(),
                    encode(message),
                    cloud_event_headers(message, self._source, key),
                )
                for message in messages
            ]
        )

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Publish bytes as they are and wait for the acknowledgement."""
        await self._gather([(topic, key, value, headers or {})])

    async def _gather(self, items: Sequence[tuple[str, bytes | None, bytes, dict[str, str]]]) -> None:
        if self._producer is None:
            raise PublishFailed("the publisher is not started")
        pending: list[tuple[str, asyncio.Future[Any]]] = []
        try:
            async with asyncio.timeout(self._settings.request_timeout_s * 2):
                for topic, key, value, headers in items:
                    encoded = [(name, text.encode()) for name, text in headers.items()]
                    pending.append((topic, await self._producer.send(topic, value, key=key, headers=encoded)))
                for topic, future in pending:
                    await future
                    PUBLISHED.labels(topic).inc()
        except MessageSizeTooLargeError as error:
            PUBLISH_FAILED.labels(topic, "too_large").inc()
            raise Rejected(
                "too_large",
                f"a message for {topic} is larger than {self._settings.max_message_bytes} bytes "
                "(LEYDEN_KAFKA_MAX_MESSAGE_BYTES, and the topic's max.message.bytes)",
            ) from error
        except (KafkaError, TimeoutError) as error:
            PUBLISH_FAILED.labels(topic, type(error).__name__).inc()
            raise PublishFailed(f"{topic}: not acknowledged: {type(error).__name__}: {error}") from error


class MemoryPublisher:
    """Keeps what was published, for unit tests of what a service decides."""

    def __init__(self) -> None:
        self.name = "publisher"
        self.published: list[Message] = []
        self.raw: list[tuple[str, bytes | None, bytes, dict[str, str]]] = []

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Remember the messages, in order."""
        for message in messages:
            encode(message)
            self.published.append(message)

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Remember the bytes."""
        self.raw.append((topic, key, value, headers or {}))
