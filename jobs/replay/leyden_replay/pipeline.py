"""The reward and the credit service, joined without a topic between them and living in the time of the log.

They are the services' own processors. What differs is around them: a clock that stands where the log does, so
that every deadline passes at the record at which it passed; and results in the order of what caused them,
however long each was scored, so that the same log gives the same results in the same order.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from leyden_platform.clock import Clock
from leyden_platform.messaging import Partition, Processor, ProcessorFactory, Publisher, Record, Unavailable
from leyden_platform.messaging.batches import too_large
from leyden_platform.messaging.publisher import Headers
from leyden_replay.merge import Timed
from leyden_replay.roster import Chosen
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
Choose = Callable[[Record, bool], Chosen | None]


class Stage:
    """A service that reads what the one before it found, as if from a topic, each thing at its own time."""

    def __init__(self, make: MakeProcessors, topic: str, max_message_bytes: int) -> None:
        self._place, self._offset = Partition(topic, 0), 0
        self._time, self._found = LogTime(), Collector(max_message_bytes)
        self._processor = make(self._found, self._time)(self._place)

    async def take(self, result: Result) -> None:
        """Handle one message."""
        self._time.reach(result.cause.time)
        _cause.set(result.cause)
        stamp_ms = int(result.cause.time.timestamp() * 1000)
        await self._processor.handle(
            Record(self._place, self._offset, result.key, result.value, {}, stamp_ms)
        )
        self._offset += 1

    async def settled(self, cause: Cause) -> list[Result]:
        """Everything found, once the log has come to ``cause`` and nothing is under way."""
        self._time.reach(cause.time)
        _cause.set(cause)
        await self._processor.tick()
        await self._processor.drain()
        return self._found.take()

    async def close(self) -> None:
        """Forget what is open."""
        await self._processor.close()


class Pipeline:
    """Takes the records of a stretch once. ``at_start`` is called where the lead-in ends.

    ``ranking`` is there when there is a judge that ranks the rollouts of a group.
    """

    def __init__(
        self,
        reward: MakeProcessors,
        credit: MakeProcessors,
        stretch: Stretch,
        *,
        max_message_bytes: int,
        ranking: MakeProcessors | None = None,
        at_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._stretch, self._at_start = stretch, at_start
        self._order = 0
        self._time, self._scored = LogTime(), Collector(max_message_bytes)
        self._ticked = BEFORE_ALL
        self._began = stretch.since <= BEFORE_ALL
        self._reward_factory = reward(self._scored, self._time)
        self._rewards: dict[Partition, Processor] = {}
        self._cut: set[Partition] = set()
        self._ranking = Stage(ranking, Topics.RANKINGS.name, max_message_bytes) if ranking else None
        self._credit = Stage(credit, Topics.TRAJECTORIES.name, max_message_bytes)
        self._chunk = Chunk()

    async def run(
        self, records: AsyncIterator[Timed], choose: Choose, ends: datetime | None
    ) -> AsyncIterator[Chunk]:
        """Results, a chunk of records at a time. ``ends`` is the time that the log reaches after the last,
        None for that of the last record itself.

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
        await self._tick()
        yield await self._settled()

    async def close(self) -> None:
        """Forget everything that is open."""
        stages = (self._ranking, self._credit) if self._ranking else (self._credit,)
        for part in (*self._rewards.values(), *stages):
            with contextlib.suppress(Exception):
                await part.close()

    async def _take(self, timed: Timed, choose: Choose) -> None:
        counts = self._began and self._stretch.counts(timed.record, timed.time)
        self._chunk.records += 1
        self._chunk.size += len(timed.record.value or b"")
        self._chunk.time = timed.time
        if self._stretch.cuts_behind(timed.record):
            self._cut.add(timed.record.partition)
        if (chosen := choose(timed.record, counts)) is None:
            return
        processor = self._reward_of(timed.record.partition)
        _cause.set(self._cause_now(counts=counts))
        try:
            await processor.handle(chosen.record)
            if chosen.alone:
                await processor.drain()
        except MalformedMessage as error:
            self._chunk.malformed += counts
            log.warning("event_malformed", where=timed.record.where, error=str(error))
        except Unavailable:
            raise
        except Exception as error:  # the seam: what one event holds must not end the replay
            self._chunk.failed += counts
            log.error("event_failed", where=timed.record.where, exc_info=error)

    async def _passes(self, time: datetime) -> None:
        """The log has reached ``time``: close what is past its deadline, and what was before the stretch."""
        if not self._began and time >= self._stretch.since:
            self._time.reach(self._stretch.since)
            await self._tick()
            await self._settle()
            self._began = True
            self._at_start()
        self._time.reach(time)
        if time - self._ticked >= TICK:
            await self._tick()

    async def _tick(self) -> None:
        self._ticked = self._time.now()
        _cause.set(self._cause_now(counts=self._began))
        for partition, processor in self._rewards.items():
            if partition not in self._cut:  # what follows there is not known, so nothing is overdue
                await processor.tick()

    async def _settled(self) -> Chunk:
        await self._settle()
        chunk, self._chunk = self._chunk, Chunk()
        return chunk

    async def _settle(self) -> None:
        """Wait for everything that is being scored and ranked, and credit it."""
        for processor in self._rewards.values():
            await processor.drain()
        for trajectory in await self._ranked(sorted(self._scored.take(), key=_place)):
            self._chunk.trajectories.append(trajectory)
            await self._credit.take(trajectory)
        found = await self._credit.settled(self._cause_now(counts=self._began))
        self._chunk.samples += [
            result for result in found if result.cause.counts and result.topic.startswith(Topics.SAMPLES.name)
        ]

    async def _ranked(self, scored: Sequence[Result]) -> list[Result]:
        """Trajectories whose reward is known, those of ranked groups among them."""
        known = [result for result in scored if result.topic.startswith(Topics.TRAJECTORIES.name)]
        if self._ranking is None:
            return known
        for result in scored:
            if result.topic.startswith(Topics.RANKINGS.name):
                await self._ranking.take(result)
        ranked = await self._ranking.settled(self._cause_now(counts=self._began))
        return sorted([*known, *ranked], key=_place)

    def _cause_now(self, *, counts: bool) -> Cause:
        self._order += 1
        return Cause(self._order, self._time.now(), counts)

    def _reward_of(self, partition: Partition) -> Processor:
        if partition not in self._rewards:
            self._rewards[partition] = self._reward_factory(partition)
        return self._rewards[partition]


def _place(result: Result) -> tuple[int, bytes, bytes]:
    """By cause; what has one cause, because a deadline passed for several, is in an order of its own."""
    return result.cause.order, result.key, result.value
