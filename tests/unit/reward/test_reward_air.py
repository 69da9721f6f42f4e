"""Intermediate rewards: what each rule sees, and that they can neither be farmed nor outweigh the outcome."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import TOOL, answer, call, make_step, tool_message
from leyden_reward.air.rules import RULES, says_error
from leyden_reward.air.shaping import Shaping
from leyden_reward.conversation import text_of, turns
from leyden_schemas import JsonObject, RewardTerm, Step

QUESTION: JsonObject = {"role": "user", "content": "2 + 2"}
BY_NAME = {rule.name: rule for rule in RULES}
FREE = Shaping(cap=100.0)


def step(*messages: JsonObject, response: JsonObject | None = None, **changes: Any) -> Step:
    """A step that asked with these messages and could call ``add``."""
    request = {"messages": [QUESTION, *messages], "tools": [TOOL]}
    return make_step(request=request, response=response or answer(), **changes)


def calls_then(*results: str, calls: list[JsonObject] | None = None) -> list[Step]:
    """A step that calls, and the next one, whose request carries the results."""
    made = calls or [call()]
    first = step(response=answer(None, made))
    assistant = {"role": "assistant", "content": None, "tool_calls": made}
    answers = [tool_message(result, one["id"]) for one, result in zip(made, results, strict=False)]
    return [first, step(assistant, *answers)]


def measured(name: str, steps: list[Step]) -> list[float]:
    """What one rule sees in the steps."""
    return BY_NAME[name].measure(turns(steps))


def test_a_call_that_worked_and_one_that_did_not() -> None:
    steps = calls_then("4", "error: b must be an integer", calls=[call(), call(call_id="c2")])
    assert measured("tool_call_succeeded", steps) == [0.5, 0.0]
    assert measured("tool_call_failed", steps) == [0.5, 0.0]


def test_a_call_without_a_result_is_neither() -> None:
    steps = [step(response=answer(None, [call()]))]
    assert measured("tool_call_succeeded", steps) == [0.0]
    assert measured("tool_call_failed", steps) == [0.0]


def test_results_are_found_behind_the_steps_own_messages_even_when_call_ids_repeat() -> None:
    first = step(response=answer(None, [call()]))
    history = [{"role": "assistant", "tool_calls": [call()]}, tool_message("error: no")]
    second = step(*history, response=answer(None, [call()]))
    third = step(*history, {"role": "assistant", "tool_calls": [call()]}, tool_message("4"))
    assert measured("tool_call_failed", [first, second, third]) == [1.0, 0.0, 0.0]
    assert measured("tool_call_succeeded", [first, second, third]) == [0.0, 1.0, 0.0]


def test_results_are_looked_for_in_the_same_agents_next_step() -> None:
    first, last = calls_then("4")
    other = step(agent="helper")
    assert measured("tool_call_succeeded", [first, other, last]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("error: division by zero", True),
        ("ValueError: bad", True),
        ("Traceback (most recent call last):\n …", True),
        ('{"error": "not found"}', True),
        ('{"isError": true, "content": []}', True),
        ('{"success": false}', True),
        ('{"status": "failed"}', True),
        ('"Error: quoted"', True),
        ('{"error": null, "result": 4}', False),
        ("0 errors found", False),
        ("4", False),
        ("", False),
        ("terror of the deep", False),
    ],
)
def test_what_counts_as_an_error(text: str, expected: bool) -> None:
    assert says_error(text) is expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(None, [call(arguments='{"a": 2')]), 1.0),
        (answer(None, [call(arguments="[1]")]), 1.0),
        (answer(None, [call(arguments="[" * 100_000)]), 1.0),
        (answer('<tool_call>{"name": "add"'), 1.0),
        (answer(None, [call()]), 0.0),
        (answer("the <tool> is a hammer"), 0.0),
    ],
)
def test_malformed_calls(response: JsonObject, expected: float) -> None:
    assert measured("malformed_tool_call", [step(response=response)]) == [expected]


def test_an_unknown_tool_is_not_also_a_schema_violation() -> None:
    steps = [step(response=answer(None, [call(name="multiply", arguments="{}")]))]
    assert measured("unknown_tool", steps) == [1.0]
    assert measured("schema_violation", steps) == [0.0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 2, "b": 2}', 0.0),
        ('{"a": 2, "b": 2.0}', 0.0),
        ('{"a": 2}', 1.0),
        ('{"a": 2, "b": "2"}', 1.0),
        ('{"a": true, "b": 2}', 1.0),
        ('{"a": 2, "b": 2, "c": 1}', 1.0),
        ("not json", 0.0),
    ],
)
def test_schema_violations(arguments: str, expected: float) -> None:
    assert measured("schema_violation", [step(response=answer(None, [call(arguments=arguments)]))]) == [
        expected
    ]


def test_enums_and_several_types() -> None:
    schema = {
        "properties": {"op": {"enum": ["+", "-"]}, "x": {"type": ["null", "number"]}, "y": {"type": "any"}}
    }
    tool = {"type": "function", "function": {"name": "add", "parameters": schema}}

    def violated(arguments: str) -> float:
        asked = {"messages": [QUESTION], "tools": [tool]}
        one = make_step(request=asked, response=answer(None, [call(arguments=arguments)]))
        return measured("schema_violation", [one])[0]

    assert violated('{"op": "+", "x": null, "y": 1}') == 0.0
    assert violated('{"op": "*"}') == 1.0
    assert violated('{"x": "1"}') == 1.0


def test_a_repeated_call_is_one_that_brings_the_same_result() -> None:
    def round_of(result: str, spelling: str) -> list[JsonObject]:
        return [{"role": "assistant", "tool_calls": [call(arguments=spelling)]}, tool_message(result)]

    one, two = '{"a": 2, "b": 2}', '{"b":2,"a":2}'
    history: list[JsonObject] = []
    steps = []
    for result, spelling in (("3", one), ("4", two), ("4", one)):
        steps.append(step(*history, response=answer(None, [call(arguments=spelling)])))
        history += round_of(result, spelling)
    steps.append(step(*history, response=answer(None, [call()])))
    steps.append(step(*history, response=answer(None, [call()]), agent="helper"))
    assert measured("repeated_call", steps) == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_empty_and_truncated_output() -> None:
    steps = [
        step(response=answer("  ")),
        step(response=answer(None, [call()])),
        step(response=answer("4 because"), finish_reason="length"),
        make_step(response=None, finish_reason="length"),
    ]
    assert measured("empty_output", steps) == [1.0, 0.0, 0.0, 0.0]
    assert measured("truncated_output", steps) == [0.0, 0.0, 1.0, 0.0]


def test_text_parts_are_joined() -> None:
    assert (
        text_of([{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]) == "ab"
    )
    assert text_of(7) == ""


def test_terms_carry_value_weight_and_name() -> None:
    shaped = FREE.shape(calls_then("4"))
    assert [(term.name, term.value, term.weight) for term in shaped.steps[0].terms] == [
        ("tool_call_succeeded", 1.0, 0.05)
    ]
    assert shaped.steps[1].terms == []
    assert not shaped.capped


def test_one_rule_counts_for_at_most_so_many_steps() -> None:
    empty = [step(response=answer("")) for _ in range(8)]
    shaped = FREE.shape(empty)
    assert [s.reward for s in shaped.steps] == pytest.approx([-0.1 * 2 / 8] * 8)


def test_weights_can_be_changed_and_rules_turned_off() -> None:
    shaping = Shaping(cap=100.0, weights={"empty_output": -1.0, "truncated_output": 0.0})
    (shaped,) = shaping.shape([step(response=answer(""), finish_reason="length")]).steps
    assert [(term.name, term.weight) for term in shaped.terms] == [("empty_output", -1.0)]


def test_all_terms_together_are_scaled_down_to_the_cap() -> None:
    steps = [step(response=answer(""), finish_reason="length"), *calls_then("4")]
    shaped = Shaping(cap=0.1).shape(steps)
    assert shaped.capped
    # -0.1 - 0.1 + 0.05 is 0.25 in magnitude, so everything counts 0.4 times.
    assert [s.reward for s in shaped.steps] == pytest.approx([-0.08, 0.02, 0.0])


def test_a_cap_of_zero_turns_everything_off_and_keeps_what_was_there() -> None:
    signal = RewardTerm(name="signal.thumb", value=1.0)
    given_step = step(response=answer(""), terms=[signal])
    assert Shaping(cap=0.0).shape([given_step]).steps[0].terms == [signal]


def test_a_policy_that_farms_calls_stays_behind_one_that_is_right() -> None:
    history: list[JsonObject] = []
    farming = []
    for number in range(100):
        made = call(arguments=f'{{"a": {number}, "b": 0}}')
        farming.append(step(*history, response=answer(None, [made])))
        history += [{"role": "assistant", "tool_calls": [made]}, tool_message(str(number))]
    farming.append(step(*history))
    farmed = sum(s.reward for s in Shaping(cap=0.25).shape(farming).steps)
    honest = sum(s.reward for s in Shaping(cap=0.25).shape(calls_then("4")).steps)
    assert farmed == pytest.approx(honest)
    worst = [step(response=answer(""), finish_reason="length") for _ in range(100)]
    right_but_clumsy = 1.0 + sum(s.reward for s in Shaping(cap=0.25).shape(worst).steps)
    assert right_but_clumsy > 0.0 + farmed


KEYS = ["messages", "tools", "choices", "message", "content", "tool_calls", "function", "name", "arguments"]
KEYS += [
    "parameters",
    "properties",
    "required",
    "enum",
    "type",
    "role",
    "tool_call_id",
    "id",
    "text",
    "error",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(["messages", "tools", "choices"]), json_values, max_size=3)
anything = st.builds(
    lambda request, response, reason: make_step(request=request, response=response, finish_reason=reason),
    objects,
    st.none() | objects | st.builds(lambda m: {"choices": [{"message": m}]}, json_values),
    st.sampled_from(["stop", "length", None]),
)


@given(st.lists(anything, max_size=6), st.floats(min_value=0.001, max_value=1.0))
def test_whatever_an_agent_sends_rules_stay_in_bounds(steps: list[Step], cap: float) -> None:
    for rule in RULES:
        values = rule.measure(turns(steps))
        assert len(values) == len(steps)
        assert all(0.0 <= value <= 1.0 for value in values)
    shaped = Shaping(cap=cap).shape(steps)
    assert sum(abs(term.weighted) for s in shaped.steps for term in s.terms) <= cap * (1 + 1e-9)
