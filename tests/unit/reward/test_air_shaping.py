"""From measurements to terms: budgets in the order of the steps, and praise that fades."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import answer, make_step
from leyden_platform.testing.talks import Talk, adding
from leyden_reward.air.rule import Rule
from leyden_reward.air.shaping import Shaping
from leyden_schemas import RewardTerm, Step

FREE = Shaping(cap=100.0)


def steps(count: int, *, text: str = "", finish_reason: str = "stop") -> list[Step]:
    return [make_step(response=answer(text), finish_reason=finish_reason) for _ in range(count)]


def rule(name: str, weight: float, *, at_most: float = 1e9) -> Rule:
    """A rule that somebody else measures."""
    return Rule(name, lambda turns: [0.0] * len(turns), weight, at_most, "step", "…", "…")


def rewards(shaped: list[Step]) -> list[float]:
    return [step.reward for step in shaped]


def test_terms_carry_value_weight_and_name() -> None:
    talk = Talk()
    talk.calls(adding(2, 2), results=["4"])
    talk.says("4")
    shaped = FREE.shape(talk.steps)
    assert [(term.name, term.value, term.weight) for term in shaped.steps[0].terms] == [
        ("tool_call_succeeded", 1.0, 0.05)
    ]
    assert shaped.steps[1].terms == []
    assert not shaped.capped


def test_one_rule_counts_for_so_many_steps_the_first_ones() -> None:
    shaping = Shaping(cap=100.0, weights={"no_progress": 0.0})
    assert rewards(shaping.shape(steps(4)).steps) == [-0.1, -0.1, 0.0, 0.0]


def test_calls_count_one_by_one_wherever_they_stand() -> None:
    together, apart = Talk(), Talk()
    together.calls(*(adding(n, "x") for n in range(5)), results=["error"] * 5)
    for n in range(5):
        apart.calls(adding(n, "x"), results=["error"])
    shaping = Shaping(cap=100.0, weights={"no_progress": 0.0, "schema_violation": 0.0})
    for talk in (together, apart):
        talk.says("…")
        assert sum(rewards(shaping.shape(talk.steps).steps)) == pytest.approx(-0.15)
    assert shaping.shape(together.steps).steps[0].terms == [
        RewardTerm(name="tool_call_failed", value=3.0, weight=-0.05)
    ]


def test_weights_can_be_changed_and_rules_turned_off() -> None:
    shaping = Shaping(cap=100.0, weights={"empty_output": -1.0, "truncated_output": 0.0})
    (shaped,) = shaping.shape(steps(1, finish_reason="length")).steps
    assert [(term.name, term.weight) for term in shaped.terms] == [("empty_output", -1.0)]


def test_blame_and_praise_have_a_budget_each() -> None:
    measured = [(rule("bad", -0.1), [1.0, 1.0, 1.0]), (rule("good", 0.2), [0.5, 1.0, 1.0])]
    shaped = Shaping(cap=0.25, rules=[]).shape(steps(3, text="4"), measured=measured)
    assert shaped.capped
    # Blame: 0.1, 0.1 and the 0.05 that are left. Praise: 0.1, then 0.15, then nothing.
    assert rewards(shaped.steps) == pytest.approx([0.0, 0.05, -0.05])
    (last,) = shaped.steps[2].terms
    assert (last.name, last.weight) == ("bad", -0.1)
    assert last.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("final", "goal", "expected"),
    [
        (0.0, 1.0, 0.2),
        (-3.0, 1.0, 0.2),
        (0.25, 1.0, 0.15),
        (1.0, 1.0, 0.0),
        (2.0, 1.0, 0.0),
        (5.0, 10.0, 0.1),
    ],
)
def test_praise_fades_as_the_outcome_arrives_and_blame_does_not(
    final: float, goal: float, expected: float
) -> None:
    shaping = Shaping(cap=1.0, goal=goal, rules=[])
    measured = [(rule("bad", -0.1), [1.0, 0.0]), (rule("good", 0.2), [0.0, 1.0])]
    shaped = shaping.shape(steps(2, text="4"), final=final, measured=measured)
    assert rewards(shaped.steps) == pytest.approx([-0.1, expected])
    assert not shaped.capped


def test_a_cap_of_zero_turns_everything_off_and_keeps_what_was_there() -> None:
    signal = RewardTerm(name="signal.thumb", value=1.0)
    given_step = make_step(response=answer(""), terms=[signal])
    shaped = Shaping(cap=0.0).shape([given_step], measured=[(rule("bad", -1.0), [1.0])])
    assert shaped.steps == [given_step]
    assert not shaped.capped


tables = st.integers(1, 6).flatmap(
    lambda count: st.lists(
        st.tuples(
            st.floats(-2, 2).filter(bool),
            st.floats(0.1, 5),
            st.lists(st.floats(0, 3), min_size=count, max_size=count),
        ),
        min_size=1,
        max_size=5,
    )
)


@given(tables, st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_whatever_is_measured_the_bounds_hold(
    table: list[tuple[float, float, list[float]]], cap: float, final: float
) -> None:
    measured = [
        (rule(f"r{n}", weight, at_most=most), values) for n, (weight, most, values) in enumerate(table)
    ]
    bare = steps(len(table[0][2]), text="4")
    shaped = Shaping(cap=cap, rules=[]).shape(bare, final=final, measured=measured).steps
    terms = [term for step in shaped for term in step.terms]
    blame = -sum(term.weighted for term in terms if term.weight < 0)
    praise = sum(term.weighted for term in terms if term.weight > 0)
    assert blame <= cap + 1e-9
    assert final + praise <= 1.0 + 1e-9
    for t in range(len(shaped)):
        assert abs(sum(rewards(shaped[t:]))) <= cap + 1e-9
    for worth, _ in measured:
        assert sum(term.value for term in terms if term.name == worth.name) <= worth.at_most + 1e-9


@given(tables, st.floats(0.01, 1.0), st.data())
def test_what_a_step_earns_does_not_depend_on_later_ones(
    table: list[tuple[float, float, list[float]]], cap: float, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(table[0][2])))
    shaping = Shaping(cap=cap, rules=[])

    def shaped(length: int) -> list[Step]:
        measured = [
            (rule(f"r{n}", weight, at_most=most), values[:length])
            for n, (weight, most, values) in enumerate(table)
        ]
        return shaping.shape(steps(length, text="4"), measured=measured).steps

    whole = shaped(len(table[0][2]))
    assert [step.terms for step in shaped(count)] == [step.terms for step in whole[:count]]
