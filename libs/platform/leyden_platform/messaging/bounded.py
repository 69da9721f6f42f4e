"""Reading a topic once, partition by partition, up to where it ended when the reading began.

For work that goes over the log as a whole: whoever reads chooses which partition is next, so that partitions
can be merged by time in bounded memory. Nothing is decoded and nothing is committed.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import Unavailable
from leyden_platform.messaging.reader import partitions_of, to_record
from leyden_platform.messaging.record import Record
from leyden_platform.settings import KafkaSettings

_ENOUGH = 500
_POLL_MS = 200
_LAST_RECORD_S = 2.0


class Extent(NamedTuple):
    """What a partition holds: offsets from ``begin`` on and before ``end``."""

    begin: int
    end: int


class BoundedReader:
    """Reads each partition from where it is told to begin to where it ended on entering.

    A partition with more than a few hundred records in hand is paused until they are taken. ``partitions``
    are all of the topic's, unless given.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, *, partitions: Collection[int] | None = None
    ) -> None:
        self._settings, self._topic, self._wanted = settings, topic, partitions
        self._stall_s = 2 * settings.request_timeout_s
        self._consumer: AIOKafkaConsumer
        self._held: dict[int, deque[Record]] = {}
        self._paused: set[int] = set()
        self.extents: Mapping[int, Extent] = {}

    async def __aenter__(self) -> Self:
        """Connect and note where every partition ends. Raises ``Unavailable``."""
        self._consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=self._settings.max_message_bytes,
            isolation_level="read_committed" if self._settings.idempotent else "read_uncommitted",
        )
        try:
            await self._consumer.start()
            known = await partitions_of(self._consumer, self._topic, self._settings.request_timeout_s)
            partitions = [p for p in known if self._wanted is None or p.partition in self._wanted]
            self._consumer.assign(partitions)
            begins = await self._consumer.beginning_offsets(partitions)
            ends = await self._ends(partitions, begins)
        except (KafkaError, TimeoutError) as error:
            await self._consumer.stop()
            raise self._away(error) from error
        self.extents = {p.partition: Extent(begins[p], ends[p]) for p in partitions}
        for number, extent in self.extents.items():
            self.seek(number, extent.begin)
        return self

    async def _ends(
        self, partitions: list[TopicPartition], begins: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Where partitions end, whatever the broker.

        The embedded one leaves out the last batch's records but the first when it is asked; what comes with
        the records themselves is right. So the last record that it names is fetched.
        """
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        unseen = {place for place in partitions if begins[place] < ends[place]}
        for place in unseen:
            self._consumer.seek(place, ends[place] - 1)
        with contextlib.suppress(TimeoutError):  # the last offset may be that of no record
            async with asyncio.timeout(_LAST_RECORD_S):
                while unseen:
                    unseen -= (await self._consumer.getmany(*unseen, timeout_ms=_POLL_MS)).keys()
        seen = self._consumer.last_stable_offset if self._settings.idempotent else self._consumer.highwater
        return {place: max(end, seen(place) or 0) for place, end in ends.items()}

    async def __aexit__(self, *_exc: object) -> None:
        await self._consumer.stop()

    def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``, which the log holds or will hold."""
        self._held[partition] = deque()
        self._consumer.seek(TopicPartition(self._topic, partition), offset)
        self._resume(partition)

    async def offsets_at(self, when: datetime) -> dict[int, int]:
        """By partition, an offset at which nothing of ``when`` or later is missed. Raises ``Unavailable``.

        Kafka says the first such record; a broker that keeps no index of times says one before it.
        """
        millis = max(0, int(when.timestamp() * 1000))  # what is before 1970 aiokafka refuses
        wanted = {TopicPartition(self._topic, number): millis for number in self.extents}
        try:
            found = await self._consumer.offsets_for_times(wanted)
        except (KafkaError, TimeoutError) as error:
            raise self._away(error) from error
        places = {place.partition: offset for place, offset in found.items()}
        return {number: _clipped(extent, places.get(number)) for number, extent in self.extents.items()}

    async def next(self, partition: int) -> Record | None:
        """The partition's next record; None at its end.

        Raises ``Unavailable`` when the broker fails, or stays silent about records that it said it has.
        """
        held = self._held[partition]
        if not held and not await self._fill(partition):
            return None
        record = held.popleft()
        if record.offset >= self.extents[partition].end:
            return None
        if not held:
            self._resume(partition)
        return record

    async def _fill(self, partition: int) -> bool:
        """Fetch until the partition has a record in hand or is at its end."""
        try:
            async with asyncio.timeout(self._stall_s):
                while not self._held[partition]:
                    if await self._at_end(partition):
                        return False
                    await self._fetch()
        except TimeoutError:
            raise Unavailable(
                f"{self._topic}[{partition}] ends at {self.extents[partition].end}, but the broker sent "
                f"nothing after {await self._position(partition)} within {self._stall_s:g} s"
            ) from None
        except KafkaError as error:
            raise self._away(error) from error
        return True

    async def _fetch(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
        for place, raws in fetched.items():
            held = self._held[place.partition]
            held.extend(map(to_record, raws))
            if len(held) > _ENOUGH:
                self._consumer.pause(place)
                self._paused.add(place.partition)

    async def _at_end(self, partition: int) -> bool:
        return await self._position(partition) >= self.extents[partition].end

    async def _position(self, partition: int) -> int:
        return int(await self._consumer.position(TopicPartition(self._topic, partition)))

    def _resume(self, partition: int) -> None:
        if partition in self._paused:
            self._paused.discard(partition)
            self._consumer.resume(TopicPartition(self._topic, partition))

    def _away(self, error: BaseException) -> Unavailable:
        return Unavailable(
            f"cannot read {self._topic} at {self._settings.bootstrap}: {error or type(error).__name__}"
        )


def _clipped(extent: Extent, found: Any) -> int:
    """The offset found for a time, within what the log holds; its end when nothing is as late."""
    return extent.end if found is None else min(max(int(found.offset), extent.begin), extent.end)
