"""The log's own time: never ahead because of our lag, and running on when the log is quiet."""

from datetime import timedelta
from uuid import UUID

from leyden_platform.clock import ManualClock
from leyden_platform.messaging.logclock import LogClock
from leyden_platform.messaging.recent import RecentIds


def milliseconds(clock: ManualClock, seconds: float) -> int:
    """A record timestamp that many seconds from now."""
    return int((clock.now() + timedelta(seconds=seconds)).timestamp() * 1000)


def test_it_trails_with_a_backlog() -> None:
    clock = ManualClock()
    log = LogClock(clock)
    read = log.read(milliseconds(clock, -3600))
    assert read == clock.now() - timedelta(hours=1)
    clock.advance(30)
    assert log.read(milliseconds(clock, -3620)) == clock.now() - timedelta(seconds=3620)


def test_it_runs_on_while_nothing_arrives() -> None:
    clock = ManualClock()
    log = LogClock(clock)
    log.read(milliseconds(clock, -100))
    clock.advance(60)
    assert log.now() == clock.now() - timedelta(seconds=100)


def test_timestamps_from_the_future_or_missing_do_not_move_it() -> None:
    clock = ManualClock()
    log = LogClock(clock)
    assert log.read(0) == clock.now()
    assert log.read(milliseconds(clock, 1e6)) == clock.now()
    assert log.read(2**62) == clock.now()  # nanoseconds, perhaps
    clock.advance(5)
    assert log.read(-1) == clock.now()


def test_an_older_record_does_not_turn_it_back() -> None:
    clock = ManualClock()
    log = LogClock(clock)
    log.read(milliseconds(clock, -10))
    assert log.read(milliseconds(clock, -50)) == clock.now() - timedelta(seconds=10)


def test_recent_ids_forget_the_oldest() -> None:
    recent = RecentIds(2)
    for number in (1, 2, 1, 3):
        recent.add(UUID(int=number))
    assert [UUID(int=number) in recent for number in (1, 2, 3)] == [True, False, True]
    assert len(recent) == 2
