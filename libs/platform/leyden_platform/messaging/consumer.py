"""A consumer group with explicit low-watermark commits, on FastStream's batch subscriber.

FastStream fetches and calls us with raw batches; acknowledgement is ours alone: offsets are committed
explicitly, per partition, to the processor's low watermark, about once a tick, on revocation and on drain.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage as InjectedMessage
from faststream.kafka.message import KafkaMessage

from leyden_platform.memory import give_back
from leyden_platform.messaging import metrics
from leyden_platform.messaging.connection import broker_options
from leyden_platform.messaging.deadletter import dead_letter
from leyden_platform.messaging.errors import PoisonedStream, Rejected, Unavailable
from leyden_platform.messaging.policy import BadShare, FailurePolicy
from leyden_platform.messaging.processor import Processor, ProcessorFactory
from leyden_platform.messaging.publisher import Publisher
from leyden_platform.messaging.reader import to_record
from leyden_platform.messaging.record import Partition, Record
from leyden_platform.settings import KafkaSettings
from leyden_platform.telemetry import span
from leyden_schemas import MalformedMessage

log = structlog.get_logger(__name__)

_BREATH_S = 0.1
"""Computing goes on for so long before the loop may fetch what is next, send heartbeats and answer probes.
At 5 ms reward took a seventh more, because what it publishes left in smaller batches."""
_TRIM_S = 10.0
"""How often the buffers of what was fetched are given back."""


class _Stopping(Exception):
    """The group is stopping; the record in hand stays uncommitted and is replayed."""


class _Assignment:
    """One assigned partition: its processor, and the next offset to take in."""

    def __init__(self, partition: Partition, processor: Processor) -> None:
        self.partition, self.processor = partition, processor
        self.next_offset: int | None = None
        self.committed: int | None = None
        self.lock = asyncio.Lock()

    def committable(self) -> int | None:
        """The low watermark, or None while nothing was taken in."""
        low = self.processor.watermark()
        return self.next_offset if low is None else low


class ConsumerGroup(ConsumerRebalanceListener):  # type: ignore[misc]
    """Consumes ``topics`` as one member of ``group``; a ``Component``.

    ``run`` raises ``PoisonedStream`` when too many messages are bad, ``Unavailable`` when a dependency
    stays away longer than ``unavailable_timeout_s``, and whatever a processor's ``tick`` raises.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        topics: Sequence[str],
        group: str,
        factory: ProcessorFactory,
        publisher: Publisher,
        policy: FailurePolicy | None = None,
        tick_s: float = 1.0,
        max_records: int = 500,
        unavailable_timeout_s: float = 600.0,
    ) -> None:
        self.name = f"consumer:{group}"
        self._settings, self._topics, self._group = settings, topics, group
        self._factory, self._publisher = factory, publisher
        self._policy = policy or FailurePolicy()
        self._bad = BadShare(self._policy)
        self._tick_s, self._max_records = tick_s, max_records
        self._unavailable_timeout_s = unavailable_timeout_s
        self._assigned: dict[Partition, _Assignment] = {}
        self._joined = False
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._ticked = self._trimmed = time.monotonic()
        self._consumer: Any = None

    def not_ready(self) -> str | None:
        """Ready once the group gave this member its partitions (possibly none)."""
        return None if self._joined else "waiting for the consumer group to assign partitions"

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until ``stop``, then drain what is in hand and commit."""
        broker, subscriber = self._subscriber()
        try:
            await broker.start()
        except KafkaError as error:
            raise Unavailable(f"cannot reach Kafka at {self._settings.bootstrap}: {error}") from error
        self._consumer = subscriber.consumer
        stopped = asyncio.create_task(self._wake_on(stop))
        try:
            while not (stop.is_set() or self._failure):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._tick_s)
                if not self._failure:
                    await self._tick()
            await self._drain()
        finally:
            stopped.cancel()
            self._stopping.set()
            await broker.stop()
        if self._failure:
            raise self._failure

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    def _subscriber(self) -> tuple[KafkaBroker, Any]:
        broker = KafkaBroker(**broker_options(self._settings), consumer_only=True, logger=None)
        subscriber = broker.subscriber(
            *self._topics,
            batch=True,
            group_id=self._group,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            max_records=self._max_records,
            max_partition_fetch_bytes=self._settings.max_message_bytes,
            batch_timeout_ms=20,
            session_timeout_ms=int(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_s * 250),
            max_poll_interval_ms=3_600_000,
            listener=self,
            parser=_parse,
            decoder=_keep_raw,
        )

        async def consume(message: InjectedMessage) -> None:
            await self._consume(message.raw_message)

        subscriber(consume)
        return broker, subscriber

    # -- assignment

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Give each new partition a processor of its own."""
        for raw in assigned:
            partition = Partition(raw.topic, raw.partition)
            self._assigned[partition] = _Assignment(partition, self._factory(partition))
        self._joined = True
        log.info("partitions_assigned", group=self._group, partitions=len(self._assigned))

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Commit the watermarks of what is taken away, then forget its state."""
        gone = [self._assigned.pop(p) for raw in revoked if (p := Partition(*raw)) in self._assigned]
        await self._commit(gone)
        for assignment in gone:
            metrics.forget(assignment.partition, self._group)
            await assignment.processor.close()

    # -- records

    async def _consume(self, batch: Sequence[Any]) -> None:
        """Take in a batch that was fetched under the present assignment.

        A rebalance may come between two records. A partition that is assigned again is then read again from
        its committed offset, so the rest of this batch must not reach its new processor.
        """
        self._idle.clear()
        held, breathed = dict(self._assigned), time.monotonic()
        try:
            for raw in batch:
                record = to_record(raw)
                assignment = held.get(record.partition)
                if assignment is None or self._stopping.is_set() or self._failure:
                    continue
                async with assignment.lock:
                    if self._assigned.get(record.partition) is assignment:
                        await self._take_in(assignment, record)
                now = time.monotonic()
                if now - self._ticked > 2 * self._tick_s:
                    await self._tick()
                if now - breathed > _BREATH_S:
                    breathed = now
                    await asyncio.sleep(0)
        except _Stopping:
            pass
        except Exception as error:  # noqa: BLE001 - FastStream would swallow it; the group must fail
            self._failure = error
            self._wake.set()
        finally:
            self._idle.set()

    async def _take_in(self, assignment: _Assignment, record: Record) -> None:
        bad = True
        try:
            with span(
                f"{record.partition.topic} process",
                record.headers,
                **{"messaging.consumer.group.name": self._group},
            ):
                await self._attempt(assignment.processor, record)
            bad = False
            result = "processed"
        except MalformedMessage as error:
            await self._bury(record, "malformed", error, 1)
            result = "dead_lettered"
        except Rejected as error:
            await self._bury(record, error.reason, error, 1)
            result = "dead_lettered"
        except _GaveUp as error:
            await self._bury(record, "failed", error.cause, self._policy.attempts)
            result = "dead_lettered"
        assignment.next_offset = record.offset + 1
        metrics.messages(record.partition.topic, self._group, result).inc()
        self._bad.record(bad=bad)
        if self._bad.exceeded():
            raise PoisonedStream(
                f"{self._bad.bad} of the last {self._policy.window} messages of {', '.join(self._topics)} "
                f"were bad; {self.name} stops instead of dead-lettering everything. "
                "leyden.deadletters.v1 says why."
            )

    async def _attempt(self, processor: Processor, record: Record) -> None:
        failures = waits = 0
        began = time.monotonic()
        while True:
            try:
                await processor.handle(record)
                return
            except (MalformedMessage, Rejected):
                raise
            except Unavailable as error:
                waits += 1
                metrics.UNAVAILABLE.labels(record.partition.topic, self._group).inc()
                if time.monotonic() - began > self._unavailable_timeout_s:
                    raise
                log.warning("dependency_unavailable", group=self._group, where=record.where, error=str(error))
                await self._pause(waits)
            except Exception as error:
                failures += 1
                log.warning(
                    "handling_failed", group=self._group, where=record.where, attempt=failures, exc_info=error
                )
                if failures >= self._policy.attempts:
                    raise _GaveUp(error) from error
                metrics.MESSAGES.labels(record.partition.topic, self._group, "retried").inc()
                await self._pause(failures)

    async def _pause(self, attempt: int) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._policy.pause_s(attempt))
        if self._stopping.is_set():
            raise _Stopping

    async def _bury(self, record: Record, reason: str, error: Exception, attempts: int) -> None:
        log.warning("dead_lettered", group=self._group, where=record.where, reason=reason, error=str(error))
        letter = dead_letter(record, consumer=self._group, reason=reason, error=error, attempts=attempts)
        waits, began = 0, time.monotonic()
        while True:
            try:
                await self._publisher.publish(letter)
                break
            except Unavailable:
                waits += 1
                metrics.UNAVAILABLE.labels(record.partition.topic, self._group).inc()
                if time.monotonic() - began > self._unavailable_timeout_s:
                    raise
                await self._pause(waits)
        metrics.DEAD_LETTERS.labels(record.partition.topic, self._group, reason).inc()

    # -- time and offsets

    async def _tick(self) -> None:
        self._wake.clear()
        self._ticked = time.monotonic()
        for assignment in list(self._assigned.values()):
            if assignment.lock.locked():
                continue
            async with assignment.lock:
                try:
                    await assignment.processor.tick()
                except Unavailable as error:
                    log.warning("tick_unavailable", group=self._group, error=str(error))
                except Exception as error:  # noqa: BLE001 - the seam: a broken tick fails the service
                    self._failure = error
        await self._commit(list(self._assigned.values()))
        if self._ticked - self._trimmed > _TRIM_S:
            self._trimmed = self._ticked
            give_back()

    async def _commit(self, assignments: Sequence[_Assignment]) -> None:
        offsets = {
            TopicPartition(*a.partition): low
            for a in assignments
            if (low := a.committable()) is not None and low != a.committed
        }
        if offsets and self._consumer is not None:
            try:
                await self._consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError) as error:
                log.info("commit_skipped", group=self._group, reason=str(error))
                return
            except KafkaError as error:
                log.warning("commit_failed", group=self._group, error=str(error))
                return
        for assignment in assignments:
            raw = TopicPartition(*assignment.partition)
            assignment.committed = offsets.get(raw, assignment.committed)
            self._measure(assignment, raw)

    def _measure(self, assignment: _Assignment, raw: TopicPartition) -> None:
        labels = (raw.topic, str(raw.partition), self._group)
        if assignment.committed is None:
            return
        metrics.COMMITTED.labels(*labels).set(assignment.committed)
        with contextlib.suppress(IllegalStateError, AttributeError):
            end = self._consumer.highwater(raw)
            if end is not None:
                metrics.LAG.labels(*labels).set(max(0, end - assignment.committed))

    async def _drain(self) -> None:
        """Take in no more, let processors finish what they hold, commit."""
        self._stopping.set()
        await self._idle.wait()
        assignments = list(self._assigned.values())
        if not self._failure:
            await asyncio.gather(*(assignment.processor.drain() for assignment in assignments))
        await self._commit(assignments)
        for assignment in assignments:
            metrics.forget(assignment.partition, self._group)
            await assignment.processor.close()
        self._assigned.clear()


class _GaveUp(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _parse(batch: Any) -> KafkaMessage:
    """A FastStream message around the raw batch; nothing in it is decoded, so no byte can make it fail."""
    raws = batch if isinstance(batch, tuple) else (batch,)
    return KafkaMessage(raw_message=raws, body=b"", consumer=_NO_CONSUMER, correlation_id="batch")


async def _keep_raw(_message: Any) -> None:
    return None


class _NoConsumer:
    """Stands where FastStream expects a consumer to acknowledge with; offsets are committed by the group."""

    async def commit(self) -> None:
        """Not used under manual acknowledgement."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Not used under manual acknowledgement."""


_NO_CONSUMER = _NoConsumer()
