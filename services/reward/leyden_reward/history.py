"""The log behind us: what had begun before this member's first event, and rollouts that got feedback late.

Memory is bounded and lost in a restart; the log is neither. It is read again only when something asks.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from leyden_platform.clock import moment
from leyden_platform.messaging import Moment, Partition, Record, read_stretch
from leyden_platform.settings import KafkaSettings
from leyden_reward.assembly import Assembly
from leyden_reward.decisions import Decision, Drop, Dropped, Revisit
from leyden_schemas import MalformedMessage, SignalRecorded


class History(Protocol):
    """Where a partition's past is read."""

    def read(self, partition: Partition, since: Moment, until: int) -> AsyncIterator[Record]:
        """Its records from ``since`` up to and without the offset ``until``, in order."""
        ...


class KafkaHistory:
    """The past as Kafka has it."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def read(self, partition: Partition, since: Moment, until: int) -> AsyncIterator[Record]:
        """Its records. Raises ``Unavailable``."""
        return read_stretch(
            self._kafka, partition.topic, partitions=[partition.number], since=since, until=until
        )


@dataclass(frozen=True, slots=True)
class Past:
    """A partition's past, and what makes an assembly to read it with, each time in at most ``timeout_s``."""

    history: History
    partition: Partition
    assembly: Callable[..., Assembly]
    timeout_s: float = 120.0

    async def before(self, offset: int, timestamp_ms: int, *, reach: timedelta) -> Assembly:
        """What was open or had just closed when the log reached ``offset``, at that time.

        Raises ``Unavailable`` or ``TimeoutError``.
        """
        assembly = self.assembly()
        since = moment(timestamp_ms) - reach
        async with asyncio.timeout(self.timeout_s):
            async for record in self.history.read(self.partition, since, offset):
                _take(assembly, record)
        return assembly

    async def revisit(self, asked: Sequence[Revisit]) -> dict[int, Sequence[Decision]]:
        """What the feedback at these offsets changes. Raises ``Unavailable`` or ``TimeoutError``."""
        assembly, offsets = self.assembly(keep=True), {visit.offset for visit in asked}
        keys = {str(visit.rollout_id).encode() for visit in asked}
        found: dict[int, Sequence[Decision]] = {}
        async with asyncio.timeout(self.timeout_s):
            async for record in self.history.read(self.partition, _earliest(asked), max(offsets) + 1):
                if record.key in keys:
                    decisions = _take(assembly, record, late=record.offset in offsets)
                    if record.offset in offsets:
                        found[record.offset] = decisions
        return {offset: found.get(offset, [Dropped(Drop.UNKNOWN_ROLLOUT)]) for offset in offsets}


def _earliest(asked: Sequence[Revisit]) -> Moment:
    """A time if there is any: offsets are of what memory knows, which is less than what it has forgotten."""
    times = [visit.since for visit in asked if isinstance(visit.since, datetime)]
    offsets = [visit.since for visit in asked if isinstance(visit.since, int)]
    return min(times) if times else min(offsets)


def _take(assembly: Assembly, record: Record, *, late: bool = False) -> Sequence[Decision]:
    try:
        event = record.message()
    except MalformedMessage:
        return []
    if late and isinstance(event, SignalRecorded):
        assembly.end_before(event)
    return assembly.take(event, record.offset, moment(record.timestamp_ms))
