"""Time as a dependency, so that deadlines are decided by values and tests own the clock."""

from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

_LAST_MS = 32_503_680_000_000
"""The year 3000."""


def moment(millis: int) -> datetime:
    """The time so many milliseconds after 1970 began, at most the year 3000.

    Ids and records carry times that anybody may claim, and a calendar has an end.
    """
    return datetime.fromtimestamp(min(max(millis, 0), _LAST_MS) / 1000, UTC)


def born_at(identity: UUID) -> datetime:
    """The time in a UUIDv7: milliseconds since 1970 in its first 48 bits (RFC 9562, 5.7)."""
    return moment(identity.int >> 80)


class Clock(Protocol):
    """Where a component reads the time."""

    def now(self) -> datetime:
        """The current time in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that a test moves."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """The time last set."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward."""
        self._now += timedelta(seconds=seconds)
