"""All partitions of a topic as one sequence in order of time, as the services lived through them."""

import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from leyden_platform.messaging import Record
from leyden_replay.stretch import BEFORE_ALL, Source, Stretch, time_of


@dataclass(frozen=True, slots=True)
class Timed:
    """A record, and the time of the log when it was read: that of the newest record before it, or its own."""

    record: Record
    time: datetime


async def merged(source: Source, stretch: Stretch, *, latest: datetime) -> AsyncIterator[Timed]:
    """The records of the stretch, its lead-in included, oldest first; equal times go by partition.

    A partition's own order is never changed: a record that is older than the one before it counts as equally
    old. A time after ``latest`` is somebody's wrong clock and counts as that. One record a partition is held.
    """
    heads: list[tuple[datetime, int, Record]] = []

    async def advance(partition: int, newest: datetime) -> None:
        record = await source.next(partition)
        if record is None or record.offset >= stretch.stops[partition]:
            return
        time = max(newest, min(time_of(record), latest)) if record.timestamp_ms > 0 else newest
        if stretch.until is None or time < stretch.until:
            heapq.heappush(heads, (time, partition, record))

    for partition in sorted(stretch.starts):
        if stretch.starts[partition] < stretch.stops[partition]:
            await advance(partition, BEFORE_ALL)
    now = BEFORE_ALL
    while heads:
        time, partition, record = heapq.heappop(heads)
        now = max(now, time)
        if time >= stretch.reads_from:
            yield Timed(record, now)
        await advance(partition, time)
