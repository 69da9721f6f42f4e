"""The time as a partition of the log tells it, so that a deadline never blames others for our own lag."""

from datetime import datetime, timedelta

from leyden_platform.clock import Clock, moment


class LogClock:
    """The newest timestamp read from a partition, plus what has passed since it was read.

    While a backlog is read after a crash or an outage, this time trails with the log: a deadline passes
    only when the log itself went past it without the awaited record. When the log is quiet it runs like a
    wall clock. A timestamp from the future counts as now, a missing one as no news.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest: datetime | None = None
        self._read_at = clock.now()

    def read(self, timestamp_ms: int) -> datetime:
        """Take note of a record's timestamp; return the time of the log."""
        wall = self._clock.now()
        if timestamp_ms > 0:
            stamp = min(moment(timestamp_ms), wall)
            self._newest = max(stamp, self._newest or stamp)
            self._read_at = wall
            return self._newest
        return self.now()

    def now(self) -> datetime:
        """The time of the log."""
        wall = self._clock.now()
        return wall if self._newest is None else self._newest + max(wall - self._read_at, timedelta())
