"""Reading a stretch of the log again: what happened between two moments or two offsets, and nothing after it.

For the rare question about something that memory has let go. Nothing is decoded and nothing is committed;
the caller sets the deadline.
"""

from collections.abc import AsyncIterator, Collection
from datetime import datetime

from leyden_platform.messaging.bounded import BoundedReader
from leyden_platform.messaging.record import Record
from leyden_platform.settings import KafkaSettings

Moment = datetime | int
"""A time, or an offset (of one partition)."""


async def read_stretch(
    settings: KafkaSettings,
    topic: str,
    *,
    since: Moment,
    until: Moment,
    partitions: Collection[int] | None = None,
) -> AsyncIterator[Record]:
    """The records from ``since`` on and before ``until``, partition by partition.

    What retention has taken is not there; what is not written yet is not waited for. With times, a partition
    ends with its first record of ``until`` or later, whatever comes behind it.
    ``partitions`` is all of them by default. Raises ``Unavailable``.
    """
    async with BoundedReader(settings, topic, partitions=partitions) as reader:
        starts = await reader.offsets_at(since) if isinstance(since, datetime) else {}
        for number, extent in reader.extents.items():
            start = starts.get(number, since if isinstance(since, int) else extent.begin)
            reader.seek(number, max(start, extent.begin))
            while (record := await reader.next(number)) is not None and _before(record, until):
                if isinstance(since, int) or not _before(record, since):
                    yield record


def _before(record: Record, until: Moment) -> bool:
    if isinstance(until, int):
        return record.offset < until
    return record.timestamp_ms < until.timestamp() * 1000
