"""Which records a replay reads, and from where on what it finds counts: decided once, before the first is
read.

What belongs to a stretch is what *ends* in it: rollouts whose last event lies in it, groups whose last
rollout does. So stretches that follow one another share nothing and miss nothing. To know a rollout that ends
early in the stretch from its first event, reading begins a lead-in before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from leyden_platform.clock import moment
from leyden_platform.messaging import Extent, Record
from leyden_replay.edges import BadEdge, Edge, LogEdge, Offsets, OnlyOffset

BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class NothingThere(ValueError):
    """The log holds no record between the edges."""


class RangeGone(ValueError):
    """Retention has deleted records that the stretch begins with; the text says where the rest begins."""


class Source(Protocol):
    """A topic, read once: ``leyden_platform.messaging.BoundedReader``."""

    @property
    def extents(self) -> Mapping[int, Extent]: ...

    def seek(self, partition: int, offset: int) -> None: ...

    async def offsets_at(self, when: datetime) -> dict[int, int]: ...

    async def next(self, partition: int) -> Record | None: ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """Reading begins at ``starts``, or where the log comes to ``reads_from`` if that is later.

    Nothing counts before ``since`` and ``first_offsets``. Each partition ends before its offset in ``stops``,
    or before its first record of ``until`` or later.
    """

    starts: Mapping[int, int]
    stops: Mapping[int, int]
    reads_from: datetime = BEFORE_ALL
    since: datetime = BEFORE_ALL
    until: datetime | None = None
    first_offsets: Mapping[int, int] = field(default_factory=dict)
    lead_in_cut: bool = False
    cut: frozenset[int] = frozenset()
    """Partitions that an offset ends before the log does."""

    @property
    def records(self) -> int:
        """How many records are read at most."""
        return sum(max(0, self.stops[number] - start) for number, start in self.starts.items())

    def counts(self, record: Record, time: datetime) -> bool:
        """Whether what ends with this record belongs to the stretch."""
        return time >= self.since and record.offset >= self.first_offsets.get(record.partition.number, 0)

    def cuts_behind(self, record: Record) -> bool:
        """Whether an offset cuts off what follows this record on its partition."""
        number = record.partition.number
        return number in self.cut and record.offset >= self.stops[number] - 1


async def plan(source: Source, since: Edge, until: Edge, *, lead_in: timedelta, now: datetime) -> Stretch:
    """The stretch between two edges, of which the source is left at the start.

    Raises ``BadEdge``, ``RangeGone``, ``NothingThere`` and what the source raises.
    """
    extents = source.extents
    in_order(since, until, now)
    first, stops = _offsets(since, extents, "--from"), _offsets(until, extents, "--to")
    _not_reversed(first, stops)
    _not_gone(first, extents)
    begins = await _begins(source, since, first)
    cut = frozenset(number for number, stop in stops.items() if stop < extents[number].end)
    stops = {number: min(stops.get(number, extent.end), extent.end) for number, extent in extents.items()}
    starts, reads_from = {number: extent.begin for number, extent in extents.items()}, BEFORE_ALL
    if begins > BEFORE_ALL:
        reads_from = max(BEFORE_ALL, begins - lead_in)
        starts = await source.offsets_at(reads_from)
        if isinstance(since, datetime):
            await _still_there(source, begins)
    starts = {number: min(start, first.get(number, start)) for number, start in starts.items()}
    for number, start in starts.items():
        source.seek(number, start)
    stretch = Stretch(
        starts,
        stops,
        reads_from=reads_from,
        since=begins,
        until=until if isinstance(until, datetime) else None,
        first_offsets=first,
        lead_in_cut=begins > BEFORE_ALL and any(0 < e.begin == starts[n] for n, e in extents.items()),
        cut=cut,
    )
    if not stretch.records:
        raise NothingThere("the log holds no events between --from and --to")
    return stretch


def in_order(since: Edge, until: Edge, now: datetime) -> None:
    """Raises ``BadEdge`` when nothing can lie between the edges, whatever the log holds."""
    if isinstance(since, datetime) and since >= now:
        raise BadEdge(f"--from {since.isoformat()} is not in the past")
    if isinstance(since, datetime) and isinstance(until, datetime) and since >= until:
        raise BadEdge(f"--from {since.isoformat()} is not before --to {until.isoformat()}")


def _offsets(edge: Edge, extents: Mapping[int, Extent], option: str) -> dict[int, int]:
    match edge:
        case OnlyOffset(offset):
            if len(extents) != 1:
                raise BadEdge(
                    f"{option} {offset}: the topic has {len(extents)} partitions; name each: "
                    + ",".join(f"{number}:{offset}" for number in sorted(extents))
                )
            named = dict.fromkeys(extents, offset)
        case Offsets(by_partition):
            named = by_partition
        case LogEdge() | datetime():
            return {}
    for number, offset in named.items():
        if number not in extents:
            raise BadEdge(
                f"{option} {number}:{offset}: there is no partition {number}, only {sorted(extents)}"
            )
        if offset > extents[number].end:
            raise BadEdge(f"{option} {number}:{offset}: partition {number} ends at {extents[number].end}")
    return dict(named)


def _not_reversed(first: Mapping[int, int], stops: Mapping[int, int]) -> None:
    for number in sorted(first.keys() & stops.keys()):
        if first[number] > stops[number]:
            raise BadEdge(
                f"--from {number}:{first[number]} is behind --to {number}:{stops[number]}; a stretch that is "
                "empty on a partition has the same offset twice"
            )


def _not_gone(first: Mapping[int, int], extents: Mapping[int, Extent]) -> None:
    gone = {
        number: extents[number].begin for number, offset in first.items() if offset < extents[number].begin
    }
    if gone:
        there = ",".join(f"{number}:{begin}" for number, begin in sorted(gone.items()))
        raise RangeGone(
            f"retention has deleted events of the stretch: the first that are left are {there}; begin there, "
            "or with --from beginning to take what is left of every partition"
        )


async def _begins(source: Source, since: Edge, first: Mapping[int, int]) -> datetime:
    """The time before which nothing counts. With offsets it is that of the earliest record they name."""
    if isinstance(since, datetime):
        return since
    if not first:
        return BEFORE_ALL
    times = [time for number, offset in first.items() if (time := await _time_at(source, number, offset))]
    if not times:
        raise NothingThere("--from is where the log ends; nothing was written since")
    return min(times)


async def _still_there(source: Source, since: datetime) -> None:
    """Raises ``RangeGone`` when a partition has lost its beginning, and the rest begins after ``since``."""
    left = [
        time
        for number, extent in source.extents.items()
        if extent.begin > 0 and (time := await _time_at(source, number, extent.begin)) and time > since
    ]
    if left:
        raise RangeGone(
            f"retention has deleted events of the stretch: what is left of every partition begins at "
            f"{max(left).isoformat()}; begin there or later, or with --from beginning to take what is left"
        )


async def _time_at(source: Source, partition: int, offset: int) -> datetime | None:
    """When the first record from ``offset`` on was written; None at the end, or without a time."""
    source.seek(partition, offset)
    record = await source.next(partition)
    return time_of(record) if record is not None and record.timestamp_ms > 0 else None


def time_of(record: Record) -> datetime:
    """When the record was written."""
    return moment(record.timestamp_ms)
