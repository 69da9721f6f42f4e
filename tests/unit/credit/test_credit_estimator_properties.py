"""What must hold of every estimator for any group."""

from math import isfinite

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scored_rollouts import flat, outcomes, rollout, visiting

from leyden_credit.estimators import chosen, known
from leyden_credit.estimators.base import Estimator
from leyden_credit.estimators.dr_grpo import DrGrpo
from leyden_credit.estimators.gdpo import Gdpo
from leyden_credit.estimators.gigpo import Gigpo
from leyden_credit.estimators.grpo import Grpo
from leyden_credit.estimators.rae import Rae
from leyden_credit.estimators.return_to_go import ReturnToGo
from leyden_credit.estimators.rloo import Rloo
from leyden_credit.rollout import ScoredRollout, ScoredStep, Term

KEEP_THE_SCALE = [DrGrpo(), Rloo(), ReturnToGo(), ReturnToGo(baseline="rollout"), Gigpo(), Rae()]
REMOVE_THE_SCALE = [Grpo(), Gdpo(), Gigpo(scale="std")]
UNDISCOUNTED = [*KEEP_THE_SCALE, *REMOVE_THE_SCALE, Grpo(min_std=0.25), Gdpo(weights={"a": 0.1})]
DISCOUNTED = [ReturnToGo(gamma=0.9), ReturnToGo(gamma=0.9, baseline="rollout"), Gigpo(gamma=0.9, w=0.5)]
EVERY = [*UNDISCOUNTED, *DISCOUNTED]


def each(estimators: list[Estimator]) -> pytest.MarkDecorator:
    """Run the test with each of these."""
    return pytest.mark.parametrize("estimator", estimators, ids=lambda estimator: estimator.label)


def step_of(code: int) -> ScoredStep:
    """One of many steps: up to two terms, two agents, and states that are met again."""
    code, state = divmod(code, 4)
    code, agent = divmod(code, 2)
    code, both = divmod(code, 2)
    terms = (Term("a", code / 7, 1.0), Term("b", -code / 3, 0.05))
    return ScoredStep(
        terms if both else terms[:1], ("main", "critic")[agent], (None, b"1", b"2", b"3")[state]
    )


def rollout_of(final: int, codes: list[int]) -> ScoredRollout:
    """A rollout with these steps, and a final reward of two terms."""
    terms = (Term("right", final / 7, 1.0), Term("a", final % 3 / 10, 0.1))
    return ScoredRollout(terms, tuple(map(step_of, codes)))


rewards = st.integers(min_value=-70, max_value=70)
rollouts = st.builds(rollout_of, rewards, st.lists(st.integers(min_value=0, max_value=800), max_size=5))
groups = st.lists(rollouts, min_size=1, max_size=6)
factors = st.floats(min_value=0.1, max_value=10)


def scaled(group: list[ScoredRollout], factor: float) -> list[ScoredRollout]:
    """Every reward times a factor."""

    def times(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple(Term(term.name, term.value * factor, term.weight) for term in terms)

    return [
        ScoredRollout(
            times(one.terms), tuple(ScoredStep(times(s.terms), s.agent, s.state) for s in one.steps)
        )
        for one in group
    ]


def test_every_estimator_is_tested_here() -> None:
    assert {estimator.label.partition("(")[0] for estimator in EVERY} == set(known())


@given(group=groups)
def test_one_advantage_per_step(group: list[ScoredRollout]) -> None:
    for estimator in EVERY:
        assert [len(by_step) for by_step in estimator(group)] == [len(one.steps) for one in group]


@given(group=groups, data=st.data())
def test_order_within_the_group_changes_nothing_to_the_last_bit(
    group: list[ScoredRollout], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(group))))
    for estimator in EVERY:
        plain = estimator(group)
        assert estimator([group[index] for index in order]) == [plain[index] for index in order]


@given(group=groups, shift=rewards)
def test_a_final_reward_that_everybody_gets_changes_nothing(group: list[ScoredRollout], shift: int) -> None:
    given_to_all = Term("given", shift / 9, 0.0)
    shifted = [ScoredRollout((*one.terms, given_to_all), one.steps) for one in group]
    for estimator in UNDISCOUNTED:
        assert flat(estimator(shifted)) == pytest.approx(flat(estimator(group)), abs=1e-6)


@given(group=groups, factor=factors)
def test_scale_is_kept(group: list[ScoredRollout], factor: float) -> None:
    for estimator in KEEP_THE_SCALE:
        expected = [advantage * factor for advantage in flat(estimator(group))]
        assert flat(estimator(scaled(group, factor))) == pytest.approx(expected, abs=1e-6)


@given(group=groups, factor=factors)
def test_scale_is_removed(group: list[ScoredRollout], factor: float) -> None:
    """As far as the constant that is added to the deviation lets it."""
    for estimator in REMOVE_THE_SCALE:
        assert flat(estimator(scaled(group, factor))) == pytest.approx(flat(estimator(group)), abs=0.02)


@given(one=rollouts)
def test_one_rollout_gives_zeros(one: ScoredRollout) -> None:
    for estimator in EVERY:
        assert estimator([one]) == [[0.0] * len(one.steps)]


@given(final=rewards, lengths=st.lists(st.integers(min_value=0, max_value=5), min_size=1, max_size=8))
def test_equal_rewards_give_zeros_whatever_the_lengths(final: int, lengths: list[int]) -> None:
    group = [visiting(final / 7, *"abcab"[:length]) for length in lengths]
    for estimator in UNDISCOUNTED:
        assert flat(estimator(group)) == [0.0] * sum(lengths)


@given(one=rollouts, copies=st.integers(min_value=2, max_value=5))
def test_equal_rollouts_give_zeros(one: ScoredRollout, copies: int) -> None:
    """States are the rollout's own here: two visits of one rollout do differ."""
    steps = tuple(ScoredStep(step.terms, step.agent, bytes([t])) for t, step in enumerate(one.steps))
    group = [ScoredRollout(one.terms, steps)] * copies
    for estimator in EVERY:
        if "baseline=rollout" not in estimator.label:
            assert flat(estimator(group)) == [0.0] * len(steps) * copies


@given(group=groups, sizes=st.lists(st.sampled_from([-1e12, 1.0, 1e-12, 1e12]), min_size=6, max_size=6))
def test_huge_rewards_give_finite_advantages(group: list[ScoredRollout], sizes: list[float]) -> None:
    huge = [one for each, size in zip(group, sizes, strict=False) for one in scaled([each], size)]
    for estimator in EVERY:
        assert all(map(isfinite, flat(estimator(huge))))


@each(EVERY)
def test_two_thousand_steps_of_huge_rewards_are_finite(estimator: Estimator) -> None:
    roles = tuple(ScoredStep((Term("a", 1e12),), f"agent {t}", bytes(t % 50)) for t in range(2000))
    group = [ScoredRollout((Term("right", 1e12),), (*rollout(0.0, 1e12).steps, *roles[1:]))]
    group += [rollout(-1e12, *[-1e12] * 3), rollout(0.0)]
    advantages = estimator(group)
    assert list(map(len, advantages)) == [2000, 3, 0]
    assert all(map(isfinite, flat(advantages)))
    assert flat(advantages)[0] > 0 > flat(advantages)[-1]


@given(finals=st.lists(rewards.map(float), min_size=2, max_size=8))
def test_with_one_step_and_outcomes_alone_the_estimators_agree(finals: list[float]) -> None:
    group = outcomes(*finals)
    rloo = flat(Rloo()(group))
    share = (len(group) - 1) / len(group)
    for same in (ReturnToGo(), ReturnToGo(baseline="rollout"), Rae()):
        assert flat(same(group)) == pytest.approx(rloo, abs=1e-9)
    assert flat(DrGrpo()(group)) == pytest.approx([share * advantage for advantage in rloo], abs=1e-9)
    assert flat(Gigpo()(group)) == flat(DrGrpo()(group))
    assert flat(Gdpo()(group)) == flat(Grpo()(group))
    for estimator in map(chosen, known()):
        assert sum(flat(estimator(group))) == pytest.approx(0.0, abs=1e-6)


@given(group=groups)
def test_standardised_totals_have_deviation_one(group: list[ScoredRollout]) -> None:
    totals = [one.total for one in group]
    assume(max(totals) - min(totals) > 0.1)
    found = flat(Grpo()([rollout(total, 0.0) for total in totals]))
    assert sum(value**2 for value in found) / (len(found) - 1) == pytest.approx(1.0, abs=1e-3)
