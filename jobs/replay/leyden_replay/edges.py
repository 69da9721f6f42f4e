"""Where a replay begins and ends, as a person writes it: a time, an offset a partition, or the log's own
edge.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhdw])")
_OFFSETS = re.compile(r"\d+:\d+(,\d+:\d+)*")
_FORMS = (
    "write a time with its zone (2026-11-23T08:00:00Z), how long ago (-7d, -12h, -30m), offsets by partition "
    "(0:1200,1:980), the offset of a topic's only partition (1200), or {word}"
)


class LogEdge(Enum):
    """Where the log itself begins or ends."""

    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True, slots=True)
class Offsets:
    """An offset a partition. Others begin when the earliest of these does, and end with the log."""

    by_partition: dict[int, int]


@dataclass(frozen=True, slots=True)
class OnlyOffset:
    """The offset of a topic that has one partition."""

    offset: int


Edge = LogEdge | datetime | Offsets | OnlyOffset


class BadEdge(ValueError):
    """An edge that cannot be understood, or cannot be kept; the text says what to write instead."""


def parse_edge(text: str, *, now: datetime, word: LogEdge) -> Edge:
    """The edge that ``text`` names; ``word`` is the edge of the log that it may be. Raises ``BadEdge``."""
    text = text.strip()
    if text == word.value:
        return word
    if text == "now":
        return now
    if ago := _AGO.fullmatch(text):
        return _ago(float(ago[1]), ago[2], now)
    if text.isdecimal():
        return OnlyOffset(int(text))
    if _OFFSETS.fullmatch(text):
        return _offsets(text)
    return _time(text, word)


def duration_s(text: str) -> float:
    """Seconds of ``20m``, ``1.5h`` and the like. Raises ``BadEdge``."""
    found = _AGO.fullmatch(f"-{text.strip()}")
    if not found:
        raise BadEdge(f"{text!r}: write a duration such as 90s, 20m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def _ago(amount: float, unit: str, now: datetime) -> datetime:
    try:
        return now - timedelta(seconds=amount * _UNITS[unit])
    except OverflowError:
        raise BadEdge(f"-{amount:g}{unit} is before the calendar begins") from None


def _offsets(text: str) -> Offsets:
    pairs = [(int(p), int(offset)) for p, _, offset in (pair.partition(":") for pair in text.split(","))]
    by_partition = dict(pairs)
    if len(by_partition) < len(pairs):
        raise BadEdge(f"{text!r} names a partition twice")
    return Offsets(by_partition)


def _time(text: str, word: LogEdge) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadEdge(f"{text!r}: {_FORMS.format(word=word.value)}") from None
    if time.tzinfo is None:
        raise BadEdge(f"{text!r} names no time zone; add Z for UTC, or an offset such as +02:00")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise BadEdge(f"{text!r} is outside the calendar") from None
