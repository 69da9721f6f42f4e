"""Which records a replay reads, what counts, and in which order it sees them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import MemoryLog, at

from leyden_replay.edges import BadEdge, Edge, LogEdge, Offsets, OnlyOffset
from leyden_replay.merge import Timed, merged
from leyden_replay.stretch import NothingThere, RangeGone, Stretch, plan

NOW = at(10_000)
LEAD = timedelta(seconds=10)


def a_log(*, exact: bool = True) -> MemoryLog:
    """A record every ten seconds up to 90, in turn on two partitions."""
    log = MemoryLog(2, exact=exact)
    for index in range(10):
        log.add(10 * index, b"", partition=index % 2)
    return log


async def between(
    log: MemoryLog, since: Edge = LogEdge.BEGINNING, until: Edge = LogEdge.END, lead_in: timedelta = LEAD
) -> tuple[Stretch, list[Timed]]:
    """The plan, and what is read by it."""
    stretch = await plan(log, since, until, lead_in=lead_in, now=NOW)
    return stretch, [timed async for timed in merged(log, stretch, latest=NOW)]


def seconds(read: list[Timed]) -> list[float]:
    """The times of records."""
    return [(timed.time - at(0)).total_seconds() for timed in read]


async def test_everything_is_read_in_order_of_time() -> None:
    stretch, read = await between(a_log())
    assert seconds(read) == [10.0 * index for index in range(10)]
    assert [timed.record.partition.number for timed in read] == [0, 1] * 5
    assert all(stretch.counts(timed.record, timed.time) for timed in read)


@pytest.mark.parametrize("exact", [True, False])
async def test_a_stretch_of_time_counts_from_its_edge_and_reads_from_before_it(exact: bool) -> None:
    stretch, read = await between(a_log(exact=exact), at(40), at(70))
    assert seconds(read) == [30, 40, 50, 60]
    assert [stretch.counts(timed.record, timed.time) for timed in read] == [False, True, True, True]


async def test_offsets_begin_and_end_each_partition() -> None:
    stretch, read = await between(a_log(), Offsets({0: 2, 1: 3}), Offsets({0: 4, 1: 5}))
    counted = [t for t in read if stretch.counts(t.record, t.time)]
    assert [(t.record.partition.number, t.record.offset) for t in counted] == [(0, 2), (0, 3), (1, 3), (1, 4)]
    assert seconds(read)[0] == 30


async def test_partitions_that_are_not_named_begin_with_the_earliest_that_is() -> None:
    stretch, read = await between(a_log(), Offsets({0: 2}))
    counted = [t for t in read if stretch.counts(t.record, t.time)]
    assert seconds(counted) == [40, 50, 60, 70, 80, 90]


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (OnlyOffset(3), LogEdge.END, r"has 2 partitions; name each: 0:3,1:3"),
        (Offsets({7: 0}), LogEdge.END, "no partition 7"),
        (Offsets({0: 6}), LogEdge.END, "partition 0 ends at 5"),
        (LogEdge.BEGINNING, Offsets({1: 9}), "--to 1:9: partition 1 ends at 5"),
        (Offsets({0: 4, 1: 2}), Offsets({0: 2, 1: 2}), "--from 0:4 is behind --to 0:2"),
        (at(50), at(50), "is not before --to"),
        (at(20_000), LogEdge.END, "is not in the past"),
    ],
)
async def test_edges_that_do_not_fit_the_log(since: Edge, until: Edge, said: str) -> None:
    with pytest.raises(BadEdge, match=said):
        await between(a_log(), since, until)


async def test_nothing_between_the_edges_is_said() -> None:
    with pytest.raises(NothingThere):
        await between(a_log(), at(91), LogEdge.END, lead_in=timedelta())
    with pytest.raises(NothingThere):
        await between(a_log(), Offsets({0: 5, 1: 5}))


async def test_what_retention_took_is_an_error_that_says_what_is_left() -> None:
    log = a_log()
    log.forget(2, partition=1)
    with pytest.raises(RangeGone, match=r"begins at 2026-11-01T00:00:50\+00:00"):
        await between(log, at(20))
    with pytest.raises(RangeGone, match="the first that are left are 1:2"):
        await between(log, Offsets({1: 1}))
    _, read = await between(log)
    assert seconds(read) == [0, 20, 40, 50, 60, 70, 80, 90]


async def test_a_stretch_that_retention_left_whole_is_read_and_a_cut_lead_in_is_told() -> None:
    log = a_log()
    log.forget(2, partition=1)
    stretch, read = await between(log, at(55), lead_in=timedelta(seconds=30))
    assert stretch.lead_in_cut
    assert [s for s in seconds(read) if s >= 55] == [60, 70, 80, 90]
    whole, _ = await between(a_log(), at(55))
    assert not whole.lead_in_cut


async def test_the_only_partition_takes_a_number() -> None:
    log = MemoryLog(1)
    for index in range(5):
        log.add(index, b"")
    stretch, read = await between(log, OnlyOffset(2), OnlyOffset(4))
    assert [t.record.offset for t in read if stretch.counts(t.record, t.time)] == [2, 3]


async def test_a_clock_of_the_future_counts_as_now_and_an_old_one_as_the_record_before_it() -> None:
    log = MemoryLog(1)
    for stamp in (10, 5, 99_999):
        log.add(stamp, b"")
    _, read = await between(log)
    assert [timed.time for timed in read] == [at(10), at(10), NOW]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=40))
async def test_partitions_keep_their_order_and_time_never_goes_back(records: list[tuple[int, int]]) -> None:
    log = MemoryLog(3)
    for partition, stamp in records:
        log.add(stamp, b"", partition)
    if not records:
        return
    _, read = await between(log)
    assert len(read) == len(records)
    assert seconds(read) == sorted(seconds(read))
    for partition in range(3):
        offsets = [t.record.offset for t in read if t.record.partition.number == partition]
        assert offsets == sorted(offsets)
