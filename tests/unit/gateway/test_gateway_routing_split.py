"""The split of a policy's traffic: hand-worked parts, proportions over many ids, and stickiness."""

from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.routing.split import canaries, position

SPACE = UUID(int=7)
IDS = [uuid5(SPACE, str(number)) for number in range(10_000)]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ({}, ()),
        ({"canary": 0.25}, ((0.25, 3),)),
        ({"serving": 0.5}, ()),
        ({"gone": 0.5}, ()),
        ({"canary": 0.25, "beta": 0.5}, ((0.5, 2), (0.75, 3))),
        ({"canary": 0.75, "beta": 0.75}, ((0.75, 2), (1.0, 3))),
        ({"canary": 0.5, "beta": 1.0}, ((1.0, 2),)),
    ],
)
def test_canaries_lie_in_the_order_of_their_names(
    weights: dict[str, float], parts: tuple[tuple[float, int], ...]
) -> None:
    assert canaries({"serving": 1, "beta": 2, "canary": 3}, weights) == parts


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_proportions(weight: float) -> None:
    taken = sum(position(rollout, "calculator") < weight for rollout in IDS)
    deviation = (10_000 * weight * (1 - weight)) ** 0.5
    assert abs(taken - 10_000 * weight) < 4 * deviation


def test_positions_are_the_same_in_every_process_and_for_ever() -> None:
    assert position(UUID(int=7), "calculator") == pytest.approx(0.6592489881225383, abs=1e-12)


def test_policies_are_split_independently() -> None:
    both = sum(position(rollout, "one") < 0.5 and position(rollout, "two") < 0.5 for rollout in IDS)
    assert abs(both - 2500) < 200


@given(st.uuids(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_share_keeps_who_was_in_the_smaller(rollout: UUID, one: float, two: float) -> None:
    here = position(rollout, "calculator")
    assert 0 <= here < 1
    assert not here < min(one, two) or here < max(one, two)
