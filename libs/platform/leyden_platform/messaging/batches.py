"""Group commit: records gather in one open batch a partition until the client takes it into a request.

aiokafka gathers too, but then a deadline, metrics and a bound on bytes would be paid for with each record;
here they are paid for once a batch.
"""

import asyncio
import functools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

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
        self._sending: set[asyncio.Future[Any]] = set()

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
            batch = _Batch(self._loop, _Builder(self._max_bytes, self._codec))
            waiter = batch.add(key, value, headers, size)
            assert waiter is not None, "an empty batch takes a record of any size"
            self._send(place, batch)
        return waiter

    async def flush(self) -> None:
        """Wait until nothing is on its way."""
        if self._sending:
            await asyncio.wait(self._sending)

    def _send(self, place: tuple[str, int], batch: _Batch) -> None:
        """Have the client take the batch when it is the partition's turn; until then it stays open."""
        topic, partition = place
        self._open[place] = batch
        timer = self._loop.call_later(self._timeout_s, self._give_up, place, batch)
        sent = _started(self._producer.send_batch(batch.builder, topic, partition=partition), self._loop)
        self._sending.add(sent)
        sent.add_done_callback(functools.partial(self._settle, place, batch, timer))

    def _settle(
        self, place: tuple[str, int], batch: _Batch, timer: asyncio.TimerHandle, sent: "asyncio.Future[Any]"
    ) -> None:
        """Tell everybody how their batch ended."""
        timer.cancel()
        self._close(place, batch)
        self._sending.discard(sent)
        self._released(batch.size)
        error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
        count(place[0], len(batch.waiters), _reason(error) if error else None)
        batch.end(_failure(place[0], error) if error else None)

    def _give_up(self, place: tuple[str, int], batch: _Batch) -> None:
        """Let nobody wait any longer; the client may still deliver the batch."""
        self._close(place, batch)
        batch.end(_failed(place[0], f"nothing heard from the broker within {self._timeout_s:g} s"))

    def _close(self, place: tuple[str, int], batch: _Batch) -> None:
        if self._open.get(place) is batch:
            del self._open[place]


def _started(sending: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Any]":
    """What ends when the batch was acknowledged or failed.

    Handing a batch over suspends only behind one that the client has not taken yet. Its first step is
    therefore made here, and a task for the rest only if there is one: a wake-up less before, and one after.
    """
    try:
        waiting_for = sending.send(None)
    except StopIteration as done:
        acknowledged: asyncio.Future[Any] = done.value
        return acknowledged
    except KafkaError as error:
        failed = loop.create_future()
        failed.set_exception(error)
        return failed
    return loop.create_task(_finished(sending, waiting_for))


async def _finished(sending: Coroutine[Any, Any, Any], waiting_for: Any) -> None:
    await (await _resumed(sending, waiting_for))


@types.coroutine
def _resumed(sending: Coroutine[Any, Any, Any], waiting_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that was stepped to where it waits."""
    yield waiting_for
    return (yield from sending)


def _failure(topic: str, error: BaseException) -> Callable[[], MessagingError]:
    if isinstance(error, MessageSizeTooLargeError):
        return lambda: too_large(topic)
    return _failed(topic, f"{type(error).__name__}: {error}")


def _reason(error: BaseException) -> str:
    return "too_large" if isinstance(error, MessageSizeTooLargeError) else type(error).__name__


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
    counter = PUBLISH_FAILED.labels(topic, failed) if failed else _published(topic)
    counter.inc(records)


@functools.lru_cache(maxsize=256)
def _published(topic: str) -> Counter:
    return PUBLISHED.labels(topic)
