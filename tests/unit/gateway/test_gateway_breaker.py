"""The circuit breaker, step by step with time as an argument; jitter 0.5 leaves open times as they are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.routing.breaker import JITTER, Breaker, Rules, State

RULES = Rules(failures=3, ratio=0.5, window_s=10, min_calls=4, open_s=1, open_max_s=5)
EVEN = 0.5


def state(breaker: Breaker) -> State:
    """Read anew each time, which narrowing by a type checker would forget."""
    return breaker.state


def tripped(rules: Rules = RULES) -> Breaker:
    """Opened at time 0."""
    breaker = Breaker(rules)
    for _ in range(rules.failures):
        breaker.failed(0, EVEN)
    assert state(breaker) is State.OPEN
    return breaker


def half_open(rules: Rules = RULES) -> Breaker:
    """Waiting for its probe, at time 1."""
    breaker = tripped(rules)
    breaker.look(1)
    assert state(breaker) is State.HALF_OPEN
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(RULES)
    breaker.failed(0, EVEN)
    breaker.failed(0, EVEN)
    assert state(breaker) is State.CLOSED
    breaker.failed(0, EVEN)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 1.0)


def test_a_success_between_failures_starts_the_row_anew() -> None:
    breaker = Breaker(Rules(failures=3, min_calls=100))
    for _ in range(10):
        breaker.failed(0, EVEN)
        breaker.failed(0, EVEN)
        breaker.succeeded(0)
    assert state(breaker) is State.CLOSED


def test_a_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    breaker = Breaker(RULES)
    for outcome in ("bad", "good"):
        breaker.failed(0, EVEN) if outcome == "bad" else breaker.succeeded(0)
    breaker.failed(1, EVEN)
    assert state(breaker) is State.CLOSED  # 2 of 3, and 3 calls say nothing
    breaker.succeeded(2)
    assert state(breaker) is State.CLOSED  # 2 of 4, but only a failure opens
    breaker.failed(3, EVEN)
    assert state(breaker) is State.OPEN  # 3 of 5


def test_a_window_ends() -> None:
    breaker = Breaker(RULES)
    breaker.failed(0, EVEN)
    breaker.succeeded(0)
    breaker.failed(9.9, EVEN)
    breaker.succeeded(10)  # the first of a new window
    breaker.failed(10, EVEN)
    breaker.succeeded(10)
    assert state(breaker) is State.CLOSED
    breaker.failed(10, EVEN)
    assert state(breaker) is State.OPEN  # 2 of 4


def test_it_waits_its_time_and_lets_one_probe_pass() -> None:
    breaker = tripped()
    breaker.look(0.99)
    assert state(breaker) is State.OPEN
    breaker.look(1)
    assert (breaker.state, breaker.probing) == (State.HALF_OPEN, False)


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_limit() -> None:
    breaker = tripped()
    until = [breaker.open_until]
    for _ in range(4):
        breaker.look(until[-1])
        breaker.probing = True
        breaker.failed(until[-1], EVEN)
        until.append(breaker.open_until)
    assert [later - sooner for sooner, later in pairwise(until)] == [2, 4, 5, 5]


def test_a_probe_that_begins_closes_it_on_probation() -> None:
    breaker = half_open()
    breaker.began()
    assert state(breaker) is State.CLOSED
    breaker.failed(1, EVEN)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 3.0)


def test_a_call_that_ends_well_ends_the_probation() -> None:
    breaker = half_open()
    breaker.began()
    breaker.succeeded(1)
    breaker.failed(1, EVEN)
    breaker.failed(1, EVEN)
    assert state(breaker) is State.CLOSED
    breaker.failed(1, EVEN)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 2.0)


def test_an_abandoned_probe_makes_room_for_another() -> None:
    breaker = half_open()
    breaker.probing = True
    breaker.abandoned()
    assert (breaker.state, breaker.probing) == (State.HALF_OPEN, False)


def test_what_ends_while_it_is_open_changes_nothing() -> None:
    breaker = tripped()
    breaker.failed(0.5, EVEN)
    breaker.succeeded(0.5)
    breaker.began()
    assert (breaker.state, breaker.open_until) == (State.OPEN, 1.0)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_open_times_vary(jitter: float, seconds: float) -> None:
    breaker = Breaker(Rules(failures=1))
    breaker.failed(100, jitter)
    assert breaker.open_until == pytest.approx(100 + seconds)


@given(st.lists(st.sampled_from(["good", "bad", "begun", "gone", "wait"]), max_size=200))
def test_it_always_recovers(steps: list[str]) -> None:
    breaker, now = Breaker(RULES), 0.0
    for step in steps:
        match step:
            case "good":
                breaker.succeeded(now)
            case "bad":
                breaker.failed(now, EVEN)
            case "begun":
                breaker.began()
            case "gone":
                breaker.abandoned()
            case _:
                now += 0.5
                breaker.look(now)
        assert state(breaker) is not State.OPEN or breaker.open_until - now <= RULES.open_max_s
    breaker.look(now + RULES.open_max_s)
    breaker.began()
    assert state(breaker) is State.CLOSED
