"""Advantages by hand, and what must hold for any group."""

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from leyden_credit.estimators import ESTIMATORS, Advantages, estimator, grpo, return_to_go, rloo
from leyden_credit.rollout import ScoredRollout

rewards = st.floats(min_value=-10, max_value=10).map(lambda value: round(value, 3))
rollouts = st.builds(
    lambda final, air: ScoredRollout(final, tuple(air)), rewards, st.lists(rewards, max_size=5)
)
groups = st.lists(rollouts, min_size=1, max_size=8)
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def outcomes(*finals: float) -> list[ScoredRollout]:
    """Rollouts of one step without intermediate rewards."""
    return [ScoredRollout(final, (0.0,)) for final in finals]


def flat(advantages: Advantages) -> list[float]:
    """All advantages in one list."""
    return [advantage for by_step in advantages for advantage in by_step]


# -- by hand


def test_grpo_divides_by_the_sample_deviation() -> None:
    # Mean 0.5; squared deviations 4 * 0.25 = 1; sample variance 1/3; deviation 0.57735.
    assert flat(grpo(outcomes(1, 0, 1, 0))) == pytest.approx(
        [0.866024, -0.866024, 0.866024, -0.866024], abs=1e-5
    )


def test_grpo_counts_intermediate_rewards_and_broadcasts_over_the_steps() -> None:
    group = [ScoredRollout(1.0, (0.5, 0.5, 0.0)), ScoredRollout(0.0, (0.0,)), ScoredRollout(1.0, ())]
    # Totals 2, 0, 1: mean 1, deviation 1.
    first, second, third = grpo(group)
    assert first == pytest.approx([1.0] * 3, abs=1e-5)
    assert second == pytest.approx([-1.0], abs=1e-5)
    assert third == []


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    # The others' means are 0.25, 0.75 and 0.5.
    assert flat(rloo(outcomes(1, 0, 0.5))) == pytest.approx([0.75, -0.75, 0.0])


def test_return_to_go_credits_what_followed() -> None:
    group = [ScoredRollout(1.0, (0.0, 0.2, 0.0)), ScoredRollout(0.0, (-0.1,))]
    # Returns 1.2, 1.2, 1.0 (mean 3.4 / 3) and -0.1.
    first, second = return_to_go(group)
    assert first == pytest.approx([1.3, 1.3, 1.1])
    assert second == pytest.approx([-0.1 - 3.4 / 3])


def test_return_to_go_discounts_by_the_steps_that_remain() -> None:
    group = [ScoredRollout(1.0, (0.0, 1.0)), ScoredRollout(0.0, (0.0,))]
    # Last step: 1 + 1 = 2. First: 0 + 0.5 * 2 = 1.
    assert return_to_go(group, gamma=0.5)[0] == pytest.approx([1.0, 2.0])


def test_return_to_go_counts_a_rollout_without_steps_in_the_baseline() -> None:
    group = [ScoredRollout(0.0, (0.0,)), ScoredRollout(1.0, ())]
    assert return_to_go(group) == [pytest.approx([-1.0]), []]


@every_estimator
def test_one_rollout_gives_zeros(name: str) -> None:
    assert estimator(name)([ScoredRollout(1.0, (0.5, 0.0))]) == [[0.0, 0.0]]


@every_estimator
def test_equal_rewards_give_zeros(name: str) -> None:
    assert flat(estimator(name)([ScoredRollout(1.0, (0.1, 0.2))] * 4)) == [0.0] * 8


def test_rounding_is_not_variance() -> None:
    group = [ScoredRollout(0.1 + 0.2, (0.0,)), ScoredRollout(0.3, (0.0,))]
    assert flat(grpo(group)) == flat(rloo(group)) == [0.0, 0.0]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="no estimator is named 'ppo'; choose one of grpo, return_to_go, rloo"
    ):
        estimator("ppo")


# -- properties


@every_estimator
@given(group=groups)
def test_one_advantage_per_step(name: str, group: list[ScoredRollout]) -> None:
    advantages = estimator(name)(group)
    assert [len(by_step) for by_step in advantages] == [len(rollout.air) for rollout in group]


@every_estimator
@given(group=groups, data=st.data())
def test_order_within_the_group_does_not_matter(
    name: str, group: list[ScoredRollout], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(group))))
    plain = estimator(name)(group)
    shuffled = estimator(name)([group[index] for index in order])
    for position, index in enumerate(order):
        assert shuffled[position] == pytest.approx(plain[index], abs=1e-6)


@every_estimator
@given(group=groups, shift=rewards)
def test_a_final_reward_that_everybody_gets_changes_nothing(
    name: str, group: list[ScoredRollout], shift: float
) -> None:
    shifted = [ScoredRollout(rollout.final + shift, rollout.air) for rollout in group]
    assert flat(estimator(name)(shifted)) == pytest.approx(flat(estimator(name)(group)), abs=1e-6)


@given(group=groups, factor=st.floats(min_value=0.1, max_value=10))
def test_scale_is_kept_by_rloo_and_return_to_go_and_removed_by_grpo(
    group: list[ScoredRollout], factor: float
) -> None:
    scaled = [ScoredRollout(r.final * factor, tuple(a * factor for a in r.air)) for r in group]
    for keeps in (rloo, return_to_go):
        expected = [advantage * factor for advantage in flat(keeps(group))]
        assert flat(keeps(scaled)) == pytest.approx(expected, abs=1e-6)
    totals = [rollout.total for rollout in group]
    assume(max(totals) - min(totals) > 0.1)
    assert flat(grpo(scaled)) == pytest.approx(flat(grpo(group)), abs=1e-3)


@given(group=st.lists(st.builds(lambda f: ScoredRollout(f, (0.0,)), rewards), min_size=2, max_size=8))
def test_without_intermediate_rewards_return_to_go_is_rloo_and_both_sum_to_zero(
    group: list[ScoredRollout],
) -> None:
    assert flat(return_to_go(group)) == pytest.approx(flat(rloo(group)), abs=1e-9)
    assert sum(flat(rloo(group))) == pytest.approx(0.0, abs=1e-9)
    assert sum(flat(grpo(group))) == pytest.approx(0.0, abs=1e-6)


# -- the baseline when the policy decides when to stop


def gradient(advantages_of: Callable[[list[ScoredRollout]], Advantages], *, seed: int, draws: int) -> float:
    """Mean policy gradient of a policy that goes on with probability 1/2, up to 4 turns, each worth 0.25.

    With one logit shared by all turns, the score of going on is +1/2 and of stopping -1/2; the last turn
    decides nothing.
    """
    chance = random.Random(seed)
    total = 0.0
    for _ in range(draws):
        group, scores = [], []
        for _ in range(4):
            turns = 1
            while turns < 4 and chance.random() < 0.5:
                turns += 1
            group.append(ScoredRollout(0.0, (0.25,) * turns))
            scores.append([0.5] * (turns - 1) + ([-0.5] if turns < 4 else [0.0]))
        advantages = advantages_of(group)
        total += fmean(
            sum(score * advantage for score, advantage in zip(by_turn, credit, strict=True))
            for by_turn, credit in zip(scores, advantages, strict=True)
        )
    return total / draws


def per_turn_baseline(group: list[ScoredRollout]) -> Advantages:
    """The tempting one: compare a turn with the same turn of the rollouts that reached it."""
    returns = [[sum(r.air[t:]) for t in range(len(r.air))] for r in group]
    reached = [[row[t] for row in returns if t < len(row)] for t in range(max(map(len, returns)))]
    return [[value - fmean(reached[t]) for t, value in enumerate(row)] for row in returns]


def test_the_baseline_adds_no_bias_where_one_per_turn_does() -> None:
    """Going on at turn t is worth the turns that follow; the true gradient is known.

    E[T] = 1 + p + p^2 + p^3, so d(0.25 E[T])/dp = 0.25 (1 + 2p + 3p^2) = 0.6875 at p = 1/2; dp/dlogit = 1/4.
    """
    truth = 0.6875 / 4
    assert gradient(return_to_go, seed=1, draws=20_000) == pytest.approx(truth, abs=0.005)
    assert gradient(per_turn_baseline, seed=1, draws=20_000) < truth - 0.02
