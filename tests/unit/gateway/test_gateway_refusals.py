"""How many refused calls reach the log."""

from typing import cast

from leyden_gateway.recording.recorder import Recorder
from leyden_gateway.recording.refusals import Refusals, nobody


class Time:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusals(per_minute: int, now: Time) -> Refusals:
    return Refusals(cast("Recorder", None), per_minute, now)


def test_so_many_a_minute_are_recorded() -> None:
    now = Time()
    some = refusals(2, now)
    assert [some.take() for _ in range(4)] == [True, True, False, False]
    now.now = 30.0
    assert [some.take() for _ in range(2)] == [True, False]
    now.now = 600.0
    assert [some.take() for _ in range(3)] == [True, True, False]


def test_none_are_recorded_at_a_rate_of_0() -> None:
    assert not refusals(0, Time()).take()


def test_each_is_a_session_of_its_own() -> None:
    assert nobody().rollout_id != nobody().rollout_id
    assert (nobody().tenant, nobody().run, nobody().mode.value) == ("default", "default", "production")
