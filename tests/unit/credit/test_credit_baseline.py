"""Which estimators are unbiased when the policy decides how many steps there are, and which are not.

A policy goes on after each turn with probability ``p``, one logit for all turns, and earns a reward for every
turn it makes. The exact gradient of what it earns is known. The expectation of an estimator is computed by
going through every group there can be, and estimated from samples where rewards are noisy.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from statistics import fmean, stdev

import pytest
from scored_rollouts import rollout

from leyden_credit.crediting import negligible
from leyden_credit.estimators.base import Advantages
from leyden_credit.estimators.dr_grpo import DrGrpo
from leyden_credit.estimators.return_to_go import ReturnToGo, returns_to_go
from leyden_credit.estimators.rloo import Rloo
from leyden_credit.rollout import ScoredRollout

Estimate = Callable[[Sequence[ScoredRollout]], Advantages]
SAME_TURN, ONE_NUMBER = ReturnToGo(), ReturnToGo(baseline="rollout")
SIZE = 4


@dataclass(frozen=True)
class World:
    """What every turn earns, and how likely the policy goes on."""

    earns: tuple[float, ...]
    p: float

    @property
    def truth(self) -> float:
        """E = sum_t earns_t p^(t - 1); dE/dlogit = dE/dp p (1 - p)."""
        slope = sum(reward * t * self.p ** (t - 1) for t, reward in enumerate(self.earns) if t)
        return slope * self.p * (1 - self.p)

    def chance(self, turns: int) -> float:
        """How likely the policy makes that many turns."""
        return self.p ** (turns - 1) * (1.0 if turns == len(self.earns) else 1 - self.p)

    def scores(self, turns: int) -> list[float]:
        """d log pi / dlogit of each turn's decision: 1 - p to go on, -p to stop; the last decides nothing."""
        return [1 - self.p] * (turns - 1) + ([-self.p] if turns < len(self.earns) else [0.0])

    def gradient(self, estimate: Estimate, group: Sequence[ScoredRollout]) -> float:
        """The policy gradient that a group gives."""
        return fmean(
            sum(score * advantage for score, advantage in zip(self.scores(len(credit)), credit, strict=True))
            for credit in estimate(group)
        )

    def expected(self, estimate: Estimate) -> float:
        """The mean gradient over every group there can be."""
        lengths = range(1, len(self.earns) + 1)
        return sum(
            prod(map(self.chance, group))
            * self.gradient(estimate, [rollout(0.0, *self.earns[:turns]) for turns in group])
            for group in product(lengths, repeat=SIZE)
        )


EVERY_TURN_PAYS = World(earns=(0.25,) * 4, p=0.5)
PRICE_THEN_PRIZE = World(earns=(0.0, -0.64, 0.0, 1.0), p=0.5)
SHOWING_UP_PAYS = World(earns=(1.0, 0.02, 0.02, 0.02), p=0.95)
WORLDS = [EVERY_TURN_PAYS, PRICE_THEN_PRIZE, SHOWING_UP_PAYS]


def among_those_that_reached_the_turn(group: Sequence[ScoredRollout]) -> Advantages:
    """The tempting one: less the mean return, at the same turn, of the rollouts that made it."""
    returns = [returns_to_go(one, gamma=1.0) for one in group]
    reached = [[row[t] for row in returns if t < len(row)] for t in range(max(map(len, returns)))]
    return [[value - fmean(reached[t]) for t, value in enumerate(row)] for row in returns]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("estimate", [SAME_TURN, ONE_NUMBER, Rloo()], ids=lambda estimate: estimate.label)
def test_leaving_the_rollout_out_adds_no_bias(world: World, estimate: Estimate) -> None:
    assert world.expected(estimate) == pytest.approx(world.truth, abs=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_dr_grpo_is_unbiased_but_for_a_factor(world: World) -> None:
    assert world.expected(DrGrpo()) == pytest.approx(world.truth * (SIZE - 1) / SIZE, abs=1e-12)


def test_a_baseline_among_those_that_reached_the_turn_hides_a_reward_for_extra_turns() -> None:
    """0.25 (1 + 2p + 3p^2) p (1 - p) = 0.171875 at p = 1/2; the biased one sees less than two thirds."""
    truth = EVERY_TURN_PAYS.truth
    assert truth == pytest.approx(0.171875)
    assert EVERY_TURN_PAYS.expected(among_those_that_reached_the_turn) < 0.66 * truth


def test_a_baseline_among_those_that_reached_the_turn_can_turn_the_gradient_round() -> None:
    """A turn costs 0.64 before one is worth 1: 0.25 (-0.64 + 0.75) = 0.0275.

    The biased one shrinks turn t by E[(n - 1) / n], n being those of 4 that reach it: 3/4, 0.53125 and
    0.31640625 give 0.25 (-0.48 + 0.3994) < 0.
    """
    assert PRICE_THEN_PRIZE.truth == pytest.approx(0.0275)
    late = 0.75 * 0.25 + 0.53125 * 0.25 + 0.31640625 * 0.25
    biased = PRICE_THEN_PRIZE.expected(among_those_that_reached_the_turn)
    assert biased == pytest.approx(0.25 * (-0.64 * 0.75 + late), abs=1e-12)
    assert biased < -0.02


@pytest.mark.parametrize("world", WORLDS)
def test_dropping_groups_without_variance_adds_no_bias(world: World) -> None:
    """Under the default baseline equal rollouts have no advantages, so nothing is lost with them."""

    def kept(group: Sequence[ScoredRollout]) -> Advantages:
        advantages = SAME_TURN(group)
        assert negligible(advantages) or len(set(group)) > 1
        return advantages

    assert world.expected(kept) == pytest.approx(world.truth, abs=1e-12)


def test_dropping_equal_rollouts_under_one_number_per_rollout_would_bias() -> None:
    """It would even turn the gradient round, so a group is only dropped when no step has an advantage."""

    def dropped(group: Sequence[ScoredRollout]) -> Advantages:
        unequal = len(set(group)) > 1
        return ONE_NUMBER(group) if unequal else [[0.0] * len(one.steps) for one in group]

    assert SHOWING_UP_PAYS.expected(dropped) < 0 < SHOWING_UP_PAYS.truth


def sampled(world: World, estimate: Estimate, *, groups: int, seed: int) -> tuple[float, float]:
    """Mean gradient and its standard error, with noise on every reward and an outcome of its own."""
    chance = random.Random(seed)

    def one() -> ScoredRollout:
        turns = 1
        while turns < len(world.earns) and chance.random() < world.p:
            turns += 1
        air = [reward + chance.gauss(0.0, 0.1) for reward in world.earns[:turns]]
        return rollout(0.3 * (chance.random() < 0.5), *air)

    gradients = [world.gradient(estimate, [one() for _ in range(SIZE)]) for _ in range(groups)]
    return fmean(gradients), stdev(gradients) / groups**0.5


@pytest.mark.parametrize("estimate", [SAME_TURN, ONE_NUMBER], ids=lambda estimate: estimate.label)
def test_sampled_gradients_agree_within_their_standard_error(estimate: Estimate) -> None:
    mean, error = sampled(PRICE_THEN_PRIZE, estimate, groups=4_000, seed=1)
    assert error < 0.004
    assert abs(mean - PRICE_THEN_PRIZE.truth) < 4 * error
    assert mean > 4 * error


def test_sampled_gradients_of_the_biased_baseline_do_not() -> None:
    mean, error = sampled(PRICE_THEN_PRIZE, among_those_that_reached_the_turn, groups=4_000, seed=1)
    assert error < 0.004
    assert mean < -4 * error
    assert PRICE_THEN_PRIZE.truth - mean > 10 * error


def test_the_same_turn_is_the_steadier_baseline() -> None:
    """Where early turns earn more than late ones whatever the policy does."""
    _, same_turn = sampled(SHOWING_UP_PAYS, SAME_TURN, groups=1_000, seed=2)
    _, one_number = sampled(SHOWING_UP_PAYS, ONE_NUMBER, groups=1_000, seed=2)
    assert same_turn < 0.8 * one_number
