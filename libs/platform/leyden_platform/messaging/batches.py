"""Group commit: records gather in one open batch a partition until the client takes it into a request.

aiokafka gathers too, but then a deadline, metrics and a bound on bytes would be paid for with each record;
here they are paid for once a batch.
"""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from prometheus_client import Counter

from leyden_platform.messaging.errors import MessagingError, PublishFailed, Rejected
from leyden_platform.messaging.producer import CODECS, MAX_BATCH_BYTES
from leyden_platform.settings import KafkaSettings

PUBLISHED = Counter("leyden_published_total", "Messages acknowledged by the broker.", ["topic"])
PUBLISH_FAILED = Counter("leyden_publish_failed_total", "Messages not acknowledged.", ["topic", "reason"])


class _Builder(BatchBuilder):  # type: ignore[misc]
    """Takes nothing more once an idempotent producer has numbered its records, which is before encoding."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self.close()
        super()._set_producer_state(producer_id, producer_epoch, base_sequence)


class _Batch:
    """Records of one partition that are acknowledged together, each with somebody who waits for it."""

    __slots__ = ("_loop", "builder", "size", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop, builder: BatchBuilder) -> None:
        self._loop, self.builder = loop, builder
        self.size = 0
        self.waiters: list[asyncio.Future[None]] = []

    def add(
        self, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]], size: int
    ) -> "asyncio.Future[None] | None":
        """What ends with the acknowledgement; None when the batch is full or was taken."""
        if self.builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            return None
        waiter = self._loop.create_future()
        self.waiters.append(waiter)
        self.size += size
        return waiter

    def end(self, failure: Callable[[], MessagingError] | None) -> None:
        """Tell everybody who still waits; each gets an error of its own."""
        for waiter in self.waiters:
            if waiter.done():
                continue
            if failure:
                waiter.set_exception(failure())
            else:
                waiter.set_result(None)


class Batches:
    """The open batch of every partition, and those on their way.

    ``released`` is told the size of each batch that the client no longer holds, acknowledged or not.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        settings: KafkaSettings,
        *,
        timeout_s: float,
        released: Callable[[int], None],
    ) -> None:
        self._producer, self._timeout_s, self._released = producer, timeout_s, released
        self._max_bytes = min(MAX_BATCH_BYTES, settings.max_message_bytes)
        self._codec = CODECS[settings.compression or ""]
        self._loop = asyncio.get_running_loop()
        self._open: dict[tuple[str, int], _Batch] = {}
        self._sending: set[asyncio.Task[None]] = set()

    def add(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes,
        headers: list[tuple[str, bytes]],
        size: int,
    ) -> "asyncio.Future[None]":
        """Put a record behind those already added to its partition.

        The future ends with the acknowledgement, ``PublishFailed`` or ``Rejected``, within ``timeout_s``.
        """
        place = (topic, partition)
        batch = self._open.get(place)
        waiter = batch.add(key, value, headers, size) if batch else None
        if waiter is None:
            batch = self._begin(place)
            waiter = batch.add(key, value, headers, size)
            assert waiter is not None, "an empty batch takes a record of any size"
        return waiter

    async def flush(self) -> None:
        """Wait until nothing is on its way."""
        if self._sending:
            await asyncio.wait(self._sending)

    def _begin(self, place: tuple[str, int]) -> _Batch:
        batch = self._open[place] = _Batch(self._loop, _Builder(self._max_bytes, self._codec))
        task = self._loop.create_task(self._send(place, batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return batch

    async def _send(self, place: tuple[str, int], batch: _Batch) -> None:
        topic, partition = place
        timer = self._loop.call_later(self._timeout_s, self._give_up, place, batch)
        failure: Callable[[], MessagingError] | None = _failed(topic, "the publisher was stopped")
        reason = "stopped"
        try:
            await (await self._producer.send_batch(batch.builder, topic, partition=partition))
            failure = None
        except MessageSizeTooLargeError:
            failure, reason = lambda: too_large(topic), "too_large"
        except KafkaError as error:
            failure, reason = _failed(topic, f"{type(error).__name__}: {error}"), type(error).__name__
        finally:
            timer.cancel()
            self._close(place, batch)
            self._released(batch.size)
            batch.end(failure)
            count(topic, len(batch.waiters), reason if failure else None)

    def _give_up(self, place: tuple[str, int], batch: _Batch) -> None:
        """Let nobody wait any longer; the client may still deliver the batch."""
        self._close(place, batch)
        batch.end(_failed(place[0], f"nothing heard from the broker within {self._timeout_s:g} s"))

    def _close(self, place: tuple[str, int], batch: _Batch) -> None:
        if self._open.get(place) is batch:
            del self._open[place]


def _failed(topic: str, why: str) -> Callable[[], MessagingError]:
    return lambda: PublishFailed(f"{topic}: not acknowledged: {why}")


def too_large(topic: str) -> Rejected:
    """For a record that the settings, or a batch that the topic, do not admit."""
    return Rejected(
        "too_large",
        f"a message for {topic} is larger than LEYDEN_KAFKA_MAX_MESSAGE_BYTES, or than the topic's "
        "max.message.bytes; raise both, or send less",
    )


def count(topic: str, records: int, failed: str | None) -> None:
    """Count records by how they ended."""
    counter = PUBLISH_FAILED.labels(topic, failed) if failed else PUBLISHED.labels(topic)
    counter.inc(records)
