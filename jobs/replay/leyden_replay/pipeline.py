"""The reward and the credit service, joined without a topic between them and living in the time of the log.

They are the services' own processors. What differs is around them: a clock that stands where the log does, so
that every deadline passes at the record at which it passed; and results in the order of what caused them,
however long each was scored, so that the same log gives the same results in the same order.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from leyden_platform.clock import Clock
from leyden_platform.messaging import Partition, Processor, ProcessorFactory, Publisher, Record
from leyden_platform.messaging.batches import too_large
from leyden_platform.messaging.publisher import Headers
from leyden_replay.merge import Timed
from leyden_replay.stretch import BEFORE_ALL, Stretch
from leyden_schemas import MalformedMessage, Message, Topics, encode

log = structlog.get_logger(__name__)

CHUNK_RECORDS = 1_000
CHUNK_BYTES = 32 * 1024 * 1024
TICK = timedelta(seconds=1)
_HEADROOM_BYTES = 1_024


@dataclass(frozen=True, slots=True)
class Cause:
    """What a result followed from: its place among everything that happened, the time of the log, and whether
    what ends there belongs to the stretch."""

    order: int
    time: datetime
    counts: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A message as the service published it."""

    cause: Cause
    topic: str
    key: bytes
    value: bytes


class LogTime:
    """A clock that the replay sets."""

    def __init__(self) -> None:
        self._now = BEFORE_ALL

    def now(self) -> datetime:
        """Where the log is."""
        return self._now

    def reach(self, time: datetime) -> None:
        """Move forward; never back."""
        self._now = max(self._now, time)


_cause: ContextVar[Cause] = ContextVar("cause")


class Collector:
    """The publisher that services are given: keeps results with their causes.

    Scoring runs in tasks of its own, each in a copy of the context in which the record was handled, which is
    how a late result still knows its cause. Refuses what the live services' publisher would have refused for
    its size.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        self._results: list[Result] = []

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Keep the messages."""
        for message in messages:
            self._keep(topic or message.topic.name, message.key().encode(), encode(message))

    async def publish_encoded(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Keep the message."""
        self._keep(topic, key, value)

    async def publish_raw(
        self, topic: str, key: bytes | None, value: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Keep the message."""
        self._keep(topic, key or b"", value)

    def _keep(self, topic: str, key: bytes, value: bytes) -> None:
        if len(key) + len(value) + _HEADROOM_BYTES > self._max_bytes:
            raise too_large(topic)
        self._results.append(Result(_cause.get(), topic, key, value))

    def take(self) -> list[Result]:
        """Everything kept so far, as it came."""
        taken, self._results = self._results, []
        return taken


@dataclass(slots=True)
class Chunk:
    """What came of some records of the log: trajectories of the lead-in too, samples of the stretch alone."""

    records: int = 0
    size: int = 0
    time: datetime = BEFORE_ALL
    malformed: int = 0
    failed: int = 0
    trajectories: list[Result] = field(default_factory=list)
    samples: list[Result] = field(default_factory=list)


MakeProcessors = Callable[[Publisher, Clock], ProcessorFactory]


class Pipeline:
    """Takes the records of a stretch once. ``at_start`` is called where the lead-in ends."""

    def __init__(
        self,
        reward: MakeProcessors,
        credit: MakeProcessors,
        stretch: Stretch,
        *,
        max_message_bytes: int,
        at_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._stretch, self._at_start = stretch, at_start
        self._order = self._offset = 0
        self._time, self._credit_time = LogTime(), LogTime()
        self._ticked = BEFORE_ALL
        self._began = stretch.since <= BEFORE_ALL
        self._scored, self._credited = Collector(max_message_bytes), Collector(max_message_bytes)
        self._reward_factory = reward(self._scored, self._time)
        self._rewards: dict[Partition, Processor] = {}
        self._credit = credit(self._credited, self._credit_time)(Partition(Topics.TRAJECTORIES.name, 0))
        self._chunk = Chunk()

    async def run(
        self,
        records: AsyncIterator[Timed],
        choose: Callable[[Record, bool], Record | None],
        ends: datetime | None,
    ) -> AsyncIterator[Chunk]:
        """Results, a chunk of records at a time. ``ends`` is the time that the log reaches after the last.

        Raises what the processors raise, except for records that are bad by themselves: these are counted.
        """
        if self._began:
            self._at_start()
        async for timed in records:
            await self._passes(timed.time)
            await self._take(timed, choose)
            if self._chunk.records >= CHUNK_RECORDS or self._chunk.size >= CHUNK_BYTES:
                yield await self._settled()
        await self._passes(ends or self._time.now())
        await self._tick(counts=self._began)
        yield await self._settled()

    async def close(self) -> None:
        """Forget everything that is open."""
        for processor in (*self._rewards.values(), self._credit):
            with contextlib.suppress(Exception):
                await processor.close()

    async def _take(self, timed: Timed, choose: Callable[[Record, bool], Record | None]) -> None:
        counts = self._began and self._stretch.counts(timed.record, timed.time)
        self._chunk.records += 1
        self._chunk.size += len(timed.record.value or b"")
        self._chunk.time = timed.time
        record = choose(timed.record, counts)
        if record is None:
            return
        self._because(timed.time, counts)
        try:
            await self._reward_of(record.partition).handle(record)
        except MalformedMessage as error:
            self._chunk.malformed += counts
            log.warning("event_malformed", where=record.where, error=str(error))
        except Exception as error:  # the seam: what one event holds must not end the replay
            self._chunk.failed += counts
            log.error("event_failed", where=record.where, exc_info=error)

    async def _passes(self, time: datetime) -> None:
        """The log has reached ``time``: close what is past its deadline, and what was before the stretch."""
        if not self._began and time >= self._stretch.since:
            self._time.reach(self._stretch.since)
            await self._tick(counts=False)
            await self._settle()
            self._began = True
            self._at_start()
        self._time.reach(time)
        if time - self._ticked >= TICK:
            await self._tick(counts=self._began)

    async def _tick(self, *, counts: bool) -> None:
        self._ticked = self._time.now()
        self._because(self._ticked, counts)
        for processor in self._rewards.values():
            await processor.tick()

    async def _settled(self) -> Chunk:
        await self._settle()
        chunk, self._chunk = self._chunk, Chunk()
        return chunk

    async def _settle(self) -> None:
        """Wait for everything that is being scored, and credit it."""
        for processor in self._rewards.values():
            await processor.drain()
        for result in sorted(self._scored.take(), key=_place):
            if result.topic.startswith(Topics.TRAJECTORIES.name):
                await self._give_credit(result)
        self._credit_time.reach(self._time.now())
        self._because(self._time.now(), self._began)
        await self._credit.tick()
        self._chunk.samples += [result for result in self._credited.take() if result.cause.counts]

    async def _give_credit(self, scored: Result) -> None:
        self._chunk.trajectories.append(scored)
        self._credit_time.reach(scored.cause.time)
        self._because(scored.cause.time, scored.cause.counts)
        place = Partition(Topics.TRAJECTORIES.name, 0)
        stamp_ms = int(scored.cause.time.timestamp() * 1000)
        await self._credit.handle(Record(place, self._offset, scored.key, scored.value, {}, stamp_ms))
        self._offset += 1

    def _because(self, time: datetime, counts: bool) -> None:
        self._order += 1
        _cause.set(Cause(self._order, time, counts))

    def _reward_of(self, partition: Partition) -> Processor:
        if partition not in self._rewards:
            self._rewards[partition] = self._reward_factory(partition)
        return self._rewards[partition]


def _place(result: Result) -> tuple[int, bytes, bytes]:
    """By cause; what has one cause, because a deadline passed for several, is in an order of its own."""
    return result.cause.order, result.key, result.value
