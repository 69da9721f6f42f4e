"""What may stand after --from and --to, and what is said about everything else."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_replay.edges import BadEdge, Edge, LogEdge, Offsets, OnlyOffset, duration_s, parse_edge

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def edge(text: str) -> Edge:
    """What ``--from`` makes of a text at noon."""
    return parse_edge(text, now=NOW, word=LogEdge.BEGINNING)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("beginning", LogEdge.BEGINNING),
        ("now", NOW),
        ("-7d", NOW - timedelta(days=7)),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-1.5h", NOW - timedelta(minutes=90)),
        ("-2w", NOW - timedelta(days=14)),
        ("2026-11-23T08:00:00Z", datetime(2026, 11, 23, 8, tzinfo=UTC)),
        ("2026-11-23T08:00+02:00", datetime(2026, 11, 23, 6, tzinfo=UTC)),
        (" 1200 ", OnlyOffset(1200)),
        ("0:1200,1:980", Offsets({0: 1200, 1: 980})),
    ],
)
def test_edges_that_are_understood(text: str, meant: Edge) -> None:
    assert edge(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-11-23T08:00:00", "names no time zone; add Z"),
        ("2026-11-23", "names no time zone"),
        ("yesterday", "write a time with its zone"),
        ("end", "or beginning"),
        ("7d", "how long ago"),
        ("0:1,0:2", "names a partition twice"),
        ("0:1,", "offsets by partition"),
        ("-999999999w", "before the calendar begins"),
        ("", "write a time"),
    ],
)
def test_edges_that_are_not(text: str, said: str) -> None:
    with pytest.raises(BadEdge, match=said):
        edge(text)


def test_the_end_is_an_edge_of_its_own_side() -> None:
    assert parse_edge("end", now=NOW, word=LogEdge.END) is LogEdge.END
    with pytest.raises(BadEdge):
        parse_edge("beginning", now=NOW, word=LogEdge.END)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-20m", "20 m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadEdge, match="write a duration"):
        duration_s(text)


@given(st.text())
def test_whatever_is_written_is_an_edge_or_an_explanation(text: str) -> None:
    with suppress(BadEdge):
        edge(text)
