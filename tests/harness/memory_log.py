"""A topic in memory that a replay can read, with the same interface as the broker's."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from leyden_platform.messaging import Extent, Partition, Record
from leyden_schemas import EventMessage, Topics, encode

T0 = datetime(2026, 11, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A time of the log."""
    return T0 + timedelta(seconds=seconds)


class MemoryLog:
    """Partitions of records with times, of which retention may have taken the first.

    Without ``exact`` it is like a broker without an index of times, which says its beginning for every time.
    """

    def __init__(self, partitions: int = 1, *, exact: bool = True) -> None:
        self._records: dict[int, list[Record]] = {number: [] for number in range(partitions)}
        self._begins = dict.fromkeys(range(partitions), 0)
        self._next = dict.fromkeys(range(partitions), 0)
        self._exact = exact

    def add(self, seconds: float, value: EventMessage | bytes | None, partition: int = 0) -> int:
        """One record more; its offset."""
        place = Partition(Topics.EVENTS.name, partition)
        records = self._records[partition]
        body = value if isinstance(value, bytes | None) else encode(value)
        stamp = int(at(seconds).timestamp() * 1000)
        records.append(Record(place, len(records), None, body, {}, stamp))
        return len(records) - 1

    def tell(self, seconds: float, events: Iterable[EventMessage], partition: int = 0) -> None:
        """Events a second apart."""
        for later, event in enumerate(events):
            self.add(seconds + later, event, partition)

    def forget(self, before: int, partition: int = 0) -> None:
        """Retention takes what lies before an offset."""
        self._begins[partition] = before

    @property
    def extents(self) -> dict[int, Extent]:
        """What is left of every partition."""
        return {n: Extent(self._begins[n], len(records)) for n, records in self._records.items()}

    def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``."""
        assert offset >= self._begins[partition], "nobody reads what is gone"
        self._next[partition] = offset

    async def offsets_at(self, when: datetime) -> dict[int, int]:
        """By partition, the first record of ``when`` or later."""
        return {n: self._offset_at(when, n, records) for n, records in self._records.items()}

    def _offset_at(self, when: datetime, partition: int, records: Sequence[Record]) -> int:
        begin = self._begins[partition]
        if not self._exact:
            return begin
        millis = when.timestamp() * 1000
        return next((r.offset for r in records[begin:] if r.timestamp_ms >= millis), len(records))

    async def next(self, partition: int) -> Record | None:
        """The next record, or None."""
        offset = self._next[partition]
        if offset >= len(self._records[partition]):
            return None
        self._next[partition] += 1
        return self._records[partition][offset]
