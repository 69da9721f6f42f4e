"""Advantages of every estimator by hand."""

import pytest
from scored_rollouts import firsts, flat, outcomes, rollout, step, visiting

from leyden_credit.estimators.dr_grpo import DrGrpo
from leyden_credit.estimators.gdpo import Gdpo
from leyden_credit.estimators.gigpo import Gigpo
from leyden_credit.estimators.grpo import Grpo
from leyden_credit.estimators.rae import Rae
from leyden_credit.estimators.return_to_go import ReturnToGo, returns_to_go
from leyden_credit.estimators.rloo import Rloo
from leyden_credit.rollout import ScoredRollout, Term

HALF = 2**-0.5


def terms(*pairs: tuple[str, float, float]) -> ScoredRollout:
    """A rollout of one step with final terms (name, value, weight)."""
    named = tuple(Term(name, value * weight, weight) for name, value, weight in pairs)
    return ScoredRollout(named, (step(),))


# -- whole rollouts


def test_grpo_divides_by_the_sample_deviation() -> None:
    # Mean 0.5; squared deviations 4 * 0.25 = 1; sample variance 1/3; deviation 0.57735.
    assert flat(Grpo()(outcomes(1, 0, 1, 0))) == pytest.approx([0.866024, -0.866024] * 2, abs=1e-5)


def test_grpo_counts_intermediate_rewards_and_broadcasts_over_the_steps() -> None:
    # Totals 2, 0, 1: mean 1, deviation 1.
    first, second, third = Grpo()([rollout(1.0, 0.5, 0.5, 0.0), rollout(0.0, 0.0), rollout(1.0)])
    assert first == pytest.approx([1.0] * 3, abs=1e-5)
    assert second == pytest.approx([-1.0], abs=1e-5)
    assert third == []


def test_grpo_does_not_divide_by_less_than_min_std() -> None:
    # Deviation of 1.05, 1.0 is 0.05 / sqrt(2) = 0.0354; of 1, 0 it is 0.707, above the floor.
    hair = [rollout(1.0, 0.05), rollout(1.0, 0.0)]
    assert flat(Grpo(min_std=0.25)(hair)) == pytest.approx([0.1, -0.1], abs=1e-5)
    assert flat(Grpo(min_std=0.25)(outcomes(1, 0))) == pytest.approx([HALF, -HALF], abs=1e-5)


def test_dr_grpo_only_centres() -> None:
    assert flat(DrGrpo()(outcomes(1, 0, 0.5))) == pytest.approx([0.5, -0.5, 0.0])
    # Totals 1.5 and 0.
    assert DrGrpo()([rollout(1.0, 0.25, 0.25), rollout(0.0)]) == [pytest.approx([0.75, 0.75]), []]


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    # The others' means are 0.25, 0.75 and 0.5.
    assert flat(Rloo()(outcomes(1, 0, 0.5))) == pytest.approx([0.75, -0.75, 0.0])


# -- term by term


def test_gdpo_tells_apart_what_adds_up_alike() -> None:
    # Correct: 1, 0, 0, mean 1/3, deviation 0.57735: z 1.1547, -0.57735, -0.57735.
    # Brief:   0, 1, 0: z -0.57735, 1.1547, -0.57735. Sums 0.57735, 0.57735, -1.1547, over sqrt(2).
    group = [
        terms(("right", 1.0, 1.0), ("brief", 0.0, 1.0)),
        terms(("right", 0.0, 1.0), ("brief", 1.0, 1.0)),
        terms(("right", 0.0, 1.0), ("brief", 0.0, 1.0)),
    ]
    assert flat(Gdpo()(group)) == pytest.approx([0.408248, 0.408248, -0.816497], abs=1e-5)
    same_sums = [terms(("a", 2.0, 1.0), ("b", 0.0, 1.0)), terms(("a", 1.0, 1.0), ("b", 1.0, 1.0))] * 2
    assert flat(Gdpo(weights={"b": 0.0})(same_sums)) == pytest.approx([0.866024, -0.866024] * 2, abs=1e-5)
    assert flat(Grpo()(same_sums)) == [0.0] * 4


def test_gdpo_weighs_terms_and_not_their_scales() -> None:
    # Two rollouts: z is ±0.7071 whatever the scale. Weights 1 and 0.5 have norm 1.118.
    group = [
        terms(("right", 1.0, 1.0), ("speed", -300.0, 0.5)),
        terms(("right", 0.0, 1.0), ("speed", -900.0, 0.5)),
    ]
    assert flat(Gdpo()(group))[0] == pytest.approx(HALF * 1.5 / 1.25**0.5, abs=1e-5)
    opposed = [
        terms(("right", 1.0, 1.0), ("speed", -900.0, 0.5)),
        terms(("right", 0.0, 1.0), ("speed", 0, 0.5)),
    ]
    assert flat(Gdpo()(opposed))[0] == pytest.approx(HALF * 0.5 / 1.25**0.5, abs=1e-5)
    assert flat(Gdpo(weights={"speed": 2.0})(opposed))[0] == pytest.approx(-HALF / 5**0.5, abs=1e-5)


def test_gdpo_takes_the_weight_that_no_cap_has_reduced() -> None:
    # A cap halved the weight of the second rollout's rule; it counts 0.1 in all. Norm of 1 and 0.1: 1.00499.
    free, capped = Term("rule", 0.1, 0.1), Term("rule", 0.05, 0.05)
    group = [
        ScoredRollout((Term("reward", 1.0),), (step(),)),
        ScoredRollout((Term("reward", 1.0),), (step(), step())),
    ]
    with_rules = [
        ScoredRollout(bare.terms, tuple(type(s)((term,)) for s in bare.steps))
        for bare, term in zip(group, (free, capped), strict=True)
    ]
    # Sums 0.1 and 0.1: no difference; without the second step 0.1 and 0.05.
    assert flat(Gdpo()(with_rules)) == [0.0, 0.0, 0.0]
    shorter = [with_rules[0], ScoredRollout(with_rules[1].terms, with_rules[1].steps[:1])]
    assert flat(Gdpo()(shorter))[0] == pytest.approx(0.1 * HALF / 1.01**0.5, abs=1e-4)


def test_gdpo_keeps_a_rule_and_a_final_term_of_one_name_apart() -> None:
    group = [ScoredRollout((Term("x", 1.0),), (step(-1.0, rule="x"),)), rollout(0.0, 0.0)]
    # Final x 1 and 0, rule x -1 and 0, reward 0 and 0: they cancel out.
    assert flat(Gdpo()(group)) == pytest.approx([0.0, 0.0], abs=1e-9)


def test_a_hair_of_difference_stays_one_except_under_plain_grpo() -> None:
    """Both are right; one earned a rule worth 0.05."""
    rule = Term("tool_call_succeeded", 0.05, 0.05)
    group = [
        ScoredRollout((Term("reward", 1.0),), (type(step())((rule,)),)),
        ScoredRollout((Term("reward", 1.0),), (step(),)),
    ]
    assert flat(Grpo()(group))[0] == pytest.approx(HALF, abs=1e-4)
    assert flat(Grpo(min_std=0.25)(group))[0] == pytest.approx(0.1, abs=1e-4)
    assert flat(Gdpo()(group))[0] == pytest.approx(0.05 * HALF / 1.0025**0.5, abs=1e-4)
    assert flat(Rloo()(group))[0] == pytest.approx(0.05)
    assert flat(DrGrpo()(group))[0] == pytest.approx(0.025)
    assert flat(ReturnToGo()(group))[0] == pytest.approx(0.05)


# -- step by step


def test_return_to_go_credits_what_followed() -> None:
    # Returns 1.2, 1.2, 1.0 and -0.1, which lasts.
    first, second = ReturnToGo()([rollout(1.0, 0.0, 0.2, 0.0), rollout(0.0, -0.1)])
    assert first == pytest.approx([1.3, 1.3, 1.1])
    assert second == pytest.approx([-1.3])


def test_return_to_go_compares_with_the_same_turn_of_all_others() -> None:
    # Returns 0.9, 0.4 | 0.5 | 0.7, 0.6, 0.2. At turn 2 the second stands in with 0.5.
    group = [rollout(0.4, 0.5, 0.0), rollout(0.5, 0.0), rollout(0.2, 0.1, 0.4, 0.0)]
    first, second, third = ReturnToGo()(group)
    assert first == pytest.approx([0.9 - 0.6, 0.4 - 0.55])
    assert second == pytest.approx([0.5 - 0.8])
    assert third == pytest.approx([0.7 - 0.7, 0.6 - 0.45, 0.2 - 0.45])


def test_return_to_go_can_subtract_one_number_per_rollout() -> None:
    # The first's mean return is 3.4 / 3, the second's -0.1.
    group = [rollout(1.0, 0.0, 0.2, 0.0), rollout(0.0, -0.1)]
    first, second = ReturnToGo(baseline="rollout")(group)
    assert first == pytest.approx([1.3, 1.3, 1.1])
    assert second == pytest.approx([-0.1 - 3.4 / 3])


def test_returns_are_discounted_by_the_steps_that_remain() -> None:
    # Last step: 1 + 1 = 2. First: 0 + 0.5 * 2 = 1.
    assert returns_to_go(rollout(1.0, 0.0, 1.0), gamma=0.5) == pytest.approx([1.0, 2.0])
    assert returns_to_go(rollout(1.0), gamma=0.5) == []
    assert ReturnToGo(gamma=0.5)([rollout(1.0, 0.0, 1.0), rollout(0.0, 0.0)])[0] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("baseline", ["same_turn", "rollout"])
def test_return_to_go_counts_a_rollout_without_steps_in_the_baseline(baseline: str) -> None:
    estimator = ReturnToGo.model_validate({"baseline": baseline})
    assert estimator([rollout(0.0, 0.0), rollout(1.0)]) == [pytest.approx([-1.0]), []]


def test_gigpo_compares_steps_that_saw_the_same_state() -> None:
    # Episodes: 1, 0, 0 less 1/3. Door: returns 1, 0, 0. Key: 1, 0. Window and cellar: alone.
    group = [
        visiting(1.0, "door", "key"),
        visiting(0.0, "door", "window"),
        visiting(0.0, "door", "key", "cellar"),
    ]
    first, second, third = Gigpo()(group)
    assert first == pytest.approx([2 / 3 + 2 / 3, 2 / 3 + 1 / 2])
    assert second == pytest.approx([-1 / 3 - 1 / 3, -1 / 3])
    assert third == pytest.approx([-1 / 3 - 1 / 3, -1 / 3 - 1 / 2, -1 / 3])


def test_gigpo_weighs_and_discounts_the_step() -> None:
    # With gamma 0.5, the returns of "door" are 0.25, then 1 for those who are nearer to the end.
    group = [visiting(1.0, "door", "key", "chest"), visiting(1.0, "door")]
    first, second = Gigpo(w=0.5, gamma=0.5)(group)
    assert first == pytest.approx([0.5 * (0.25 - 0.625), 0.0, 0.0])
    assert second == pytest.approx([0.5 * (1.0 - 0.625)])
    assert flat(Gigpo(w=0.0, gamma=0.5)(group)) == [0.0] * 4


def test_gigpo_compares_two_visits_of_one_rollout() -> None:
    # Coming back to the hall: returns 0.25 and 1 there.
    group = [visiting(1.0, "hall", "attic", "hall"), visiting(1.0, "other")]
    assert Gigpo(gamma=0.5)(group)[0] == pytest.approx([-0.375, 0.0, 0.375])


def test_gigpo_can_divide_by_deviations() -> None:
    # Two rollouts: episode ±0.7071, and ±0.7071 among the steps at the door.
    group = [visiting(10.0, "door"), visiting(0.0, "door", "alone")]
    first, second = Gigpo(scale="std")(group)
    assert first == pytest.approx([2 * HALF], abs=1e-5)
    assert second == pytest.approx([-2 * HALF, -HALF], abs=1e-5)


def test_gigpo_takes_an_unknown_state_for_unlike_any_other() -> None:
    assert firsts(Gigpo()(outcomes(1.0, 0.0))) == pytest.approx([0.5, -0.5])


# -- by role


def game(white: float, black: float, *agents: str, shared: float = 0.0) -> ScoredRollout:
    """A game in which each side gets its own reward."""
    addressed = (Term("agent.white", white), Term("agent.black.score", black), Term("reward", shared))
    return ScoredRollout(addressed, tuple(step(agent=agent) for agent in agents))


def test_rae_compares_a_role_with_itself() -> None:
    # White earned 1, 1, -1: the others' means 0, 0, 1. Black the opposite.
    group = [
        game(1, -1, "white", "black", "white"),
        game(1, -1, "white", "black"),
        game(-1, 1, "white", "black"),
    ]
    first, second, third = Rae()(group)
    assert first == pytest.approx([1.0, -1.0, 1.0])
    assert second == pytest.approx([1.0, -1.0])
    assert third == pytest.approx([-2.0, 2.0])


def test_rae_counts_what_is_addressed_to_nobody_for_all_and_a_steps_reward_for_its_agent() -> None:
    group = [
        ScoredRollout((Term("reward", 1.0),), (step(0.5, "planner"), step(agent="coder"))),
        ScoredRollout((Term("reward", 0.0),), (step(agent="planner"), step(-0.25, "coder"))),
    ]
    assert Rae()(group) == [pytest.approx([1.5, 1.25]), pytest.approx([-1.5, -1.25])]


def test_rae_compares_only_where_the_role_took_part() -> None:
    group = [game(1, 0, "white", "referee", shared=1.0), game(0, 0, "white"), game(0, 0)]
    # White earned 2 and 0; nobody else had a referee; the last rollout has no steps.
    assert Rae()(group) == [pytest.approx([2.0, 0.0]), pytest.approx([-2.0]), []]


def test_rounding_is_not_variance() -> None:
    group = [rollout(0.1 + 0.2, 0.0), rollout(0.3, 0.0)]
    for estimator in (
        Grpo(),
        DrGrpo(),
        Rloo(),
        Gdpo(),
        ReturnToGo(),
        ReturnToGo(baseline="rollout"),
        Gigpo(),
        Rae(),
    ):
        assert flat(estimator(group)) == [0.0, 0.0]
