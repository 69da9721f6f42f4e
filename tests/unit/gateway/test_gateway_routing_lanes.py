"""Room in a lane: handed over in turn, withheld while it rests, drains or is left alone, never lost."""

import asyncio

import pytest
from routing_fakes import until

from leyden_gateway.routing.breaker import Rules, State
from leyden_gateway.routing.lane import Lane, Slot

RULES = Rules(failures=1, open_s=0.02, open_max_s=0.02)


class Watched(Lane):
    """A lane that counts its changes."""

    def __init__(self, limit: int = 1) -> None:
        self.changes = 0
        super().__init__("http://a", limit=limit, rules=RULES, on_change=self._count)

    def _count(self) -> None:
        self.changes += 1


def waiter(lane: Lane) -> "asyncio.Future[Slot | None]":
    """Somebody who waits for room."""
    made: asyncio.Future[Slot | None] = asyncio.get_running_loop().create_future()
    lane.join(made)
    return made


def state(lane: Lane) -> State:
    """Read anew each time, which narrowing by a type checker would forget."""
    return lane.breaker.state


async def half_open(lane: Lane) -> None:
    """Let a call fail, and time pass."""
    slot = lane.take()
    slot.settle(False, "hung up")
    slot.release()
    assert state(lane) is State.OPEN
    await until(lambda: state(lane) is State.HALF_OPEN)


async def test_room_is_limited_and_comes_back() -> None:
    lane = Watched(limit=2)
    first, second = lane.take(), lane.take()
    assert not lane.free()
    first.release()
    first.release()
    assert (lane.in_flight, lane.free()) == (1, True)
    second.release()
    assert lane.in_flight == 0


async def test_room_goes_to_who_has_waited_longest() -> None:
    lane = Watched()
    held = lane.take()
    one, gone, two = waiter(lane), waiter(lane), waiter(lane)
    gone.cancel()
    held.release()
    assert one.done()
    assert not two.done()
    assert (lane.in_flight, lane.free()) == (1, False)
    given = one.result()
    assert given
    given.release()
    last = two.result()
    assert last
    last.release()
    assert (lane.in_flight, lane.waiting) == (0, 0)


async def test_a_lane_that_rests_has_no_room_until_it_has_rested() -> None:
    lane = Watched(limit=5)
    lane.rest(0.02)
    assert lane.usable
    assert not lane.free()
    await until(lambda: lane.free())
    assert lane.changes == 1
    lane.rest(0.0)
    assert lane.free()


async def test_the_longer_rest_counts() -> None:
    lane = Watched(limit=5)
    lane.rest(0.05)
    lane.rest(0.01)
    await asyncio.sleep(0.03)
    assert not lane.free()
    lane.rest(0.05)
    await until(lambda: lane.free())
    assert lane.changes == 1


async def test_a_draining_lane_hands_nothing_over() -> None:
    lane = Watched()
    held = lane.take()
    waiting = waiter(lane)
    lane.drain(True)
    lane.drain(True)
    held.release()
    assert not lane.usable
    assert not waiting.done()
    assert (lane.in_flight, lane.changes) == (0, 1)
    lane.drain(False)
    assert lane.usable
    assert lane.changes == 2


async def test_a_server_that_has_come_back_is_probed_at_once() -> None:
    lane = Lane(
        "http://a", limit=5, rules=Rules(failures=1, open_s=60, open_max_s=60), on_change=lambda: None
    )
    slot = lane.take()
    slot.settle(False, "it was killed")
    slot.release()
    assert not lane.usable
    lane.probe_now()
    assert state(lane) is State.HALF_OPEN
    lane.probe_now()
    assert lane.free()


async def test_one_probe_passes_and_its_beginning_lets_everybody_in() -> None:
    lane = Watched(limit=5)
    await half_open(lane)
    assert lane.free()
    probe = lane.take()
    assert not lane.free()
    probe.begin()
    assert state(lane) is State.CLOSED
    assert lane.free()
    probe.settle(True)
    probe.release()
    assert lane.in_flight == 0


async def test_a_probe_that_breaks_off_after_its_beginning_opens_again() -> None:
    lane = Watched(limit=5)
    await half_open(lane)
    probe = lane.take()
    probe.begin()
    probe.settle(False, "its answer broke off")
    probe.release()
    assert state(lane) is State.OPEN
    assert lane.last_failure == "its answer broke off"


async def test_a_probe_that_is_given_up_makes_room_for_another() -> None:
    lane = Watched(limit=5)
    await half_open(lane)
    probe = lane.take()
    before = lane.changes
    probe.release()
    assert state(lane) is State.HALF_OPEN
    assert lane.free()
    assert lane.changes == before + 1


async def test_calls_from_before_say_nothing_while_it_is_half_open() -> None:
    lane = Watched(limit=5)
    old, older = lane.take(), lane.take()
    await half_open(lane)
    old.begin()
    old.settle(True)
    old.release()
    older.settle(False, "hung up")
    older.release()
    assert state(lane) is State.HALF_OPEN


async def test_no_room_is_handed_over_while_it_is_left_alone() -> None:
    lane = Watched()
    held = lane.take()
    waiting = waiter(lane)
    held.settle(False, "hung up")
    held.release()
    assert not waiting.done()
    assert lane.in_flight == 0


@pytest.mark.parametrize("begun", [True, False])
async def test_a_call_that_nobody_judged(*, begun: bool) -> None:
    """If its answer had begun the server is fine, so a row of failures ends; else nothing is known."""
    lane = Lane("http://a", limit=5, rules=Rules(failures=2), on_change=lambda: None)
    first = lane.take()
    first.settle(False)
    first.release()
    silent = lane.take()
    if begun:
        silent.begin()
    silent.release()
    last = lane.take()
    last.settle(False)
    last.release()
    assert (state(lane) is State.OPEN) is not begun
