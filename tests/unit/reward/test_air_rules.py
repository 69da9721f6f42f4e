"""What each rule sees in the steps of a rollout, and what it leaves alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from leyden_platform.conversation import turns
from leyden_platform.testing.rollouts import answer, call, make_step
from leyden_platform.testing.talks import Talk, adding
from leyden_reward.air.rules import RULES, latency_over_budget, overlong_output
from leyden_schemas import CompletionStatus, Protocol, RewardTerm, Step, Timings

BY_NAME = {rule.name: rule for rule in RULES}
WITH_TOOLS = [Protocol.CHAT, Protocol.RESPONSES, Protocol.MESSAGES]


def seen(name: str, talk: Talk | list[Step]) -> list[float]:
    """What one rule sees in the steps."""
    return BY_NAME[name].measure(turns(talk if isinstance(talk, list) else talk.steps))


@pytest.mark.parametrize("protocol", WITH_TOOLS)
def test_calls_that_worked_and_that_did_not(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.calls(adding(2, 2), adding(1, "x"), adding(1, "y"), results=["4", "error: no", "error: no"])
    talk.calls(adding(2, 2))
    talk.says("4")
    assert seen("tool_call_succeeded", talk) == [1.0, 0.0, 0.0]
    assert seen("tool_call_failed", talk) == [2.0, 0.0, 0.0]


def test_messages_say_themselves_that_a_tool_failed() -> None:
    talk = Talk(Protocol.MESSAGES)
    talk.calls(adding(2, 2), results=["4"], failed=True)
    talk.says("4")
    assert seen("tool_call_failed", talk) == [1.0, 0.0]


def test_spans_tell_of_calls_whose_results_say_nothing() -> None:
    talk = Talk()
    talk.calls(adding(2, 2), results=["4"], terms=[RewardTerm(name="signal.tool.add", value=0.0)])
    talk.calls(adding(2, 3), terms=[RewardTerm(name="signal.tool.add", value=1.0)])
    assert seen("tool_call_failed", talk) == [1.0, 0.0]
    assert seen("tool_call_succeeded", talk) == [0.0, 1.0]


@pytest.mark.parametrize("protocol", WITH_TOOLS)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 2', 1.0),
        ("[1]", 1.0),
        ("[" * 100_000, 1.0),
        ('{"a": NaN}', 1.0),
        ('{"a": 2, "b": 2}', 0.0),
        ("", 0.0),
    ],
)
def test_malformed_calls(protocol: Protocol, arguments: str, expected: float) -> None:
    talk = Talk(protocol)
    talk.calls(arguments)
    assert seen("malformed_tool_call", talk) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [('<tool_call>{"name": "add"', 1.0), ("[TOOL_CALLS] add", 1.0), ("the <tool> is a hammer", 0.0)],
)
def test_markup_of_a_call_left_in_the_text(text: str, expected: float) -> None:
    with_tools, without = Talk(), Talk(tools=())
    with_tools.says(text)
    without.says(text)
    assert seen("malformed_tool_call", with_tools) == [expected]
    assert seen("malformed_tool_call", without) == [0.0]


@pytest.mark.parametrize("protocol", WITH_TOOLS)
def test_an_unknown_tool_is_not_also_a_schema_violation(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.calls("{}", "{}", name="multiply")
    assert seen("unknown_tool", talk) == [2.0]
    assert seen("schema_violation", talk) == [0.0]


def test_nobody_knows_the_tools_of_a_request_that_was_not_recorded() -> None:
    step = make_step(request={}, response=answer(None, [call()]))
    assert seen("unknown_tool", [step]) == [0.0]


@pytest.mark.parametrize("protocol", WITH_TOOLS)
def test_schema_violations_are_counted_by_call(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.calls(adding(2, 2), adding(2, "2"), '{"a": 2}', '{"a": 1, "b": 1, "c": 1}')
    assert seen("schema_violation", talk) == [3.0]


def test_a_repeated_call_is_one_that_brings_the_same_result() -> None:
    talk = Talk()
    one, two = '{"a": 2, "b": 2}', '{"b":2,"a":2}'
    for spelling, result in ((one, "3"), (two, "4"), (one, "4")):
        talk.calls(spelling, results=[result])
    talk.calls(one)
    other = Talk(agent="helper")
    other.calls(one, results=["4"])
    assert seen("repeated_call", [*talk.steps, *other.steps]) == [0.0, 0.0, 1.0, 1.0, 0.0]


def walk(*moves: tuple[str, str]) -> Talk:
    """An agent in rooms: where it goes, and what it sees there."""
    tool = {"type": "function", "function": {"name": "go", "parameters": {}}}
    talk = Talk(tools=[tool], question="You are in the hall.")
    for direction, room in moves:
        talk.calls(f'{{"to": "{direction}"}}', name="go", results=[room])
    return talk


def test_a_cycle_is_the_same_action_in_a_state_one_came_back_to() -> None:
    talk = walk(("n", "attic"), ("s", "hall"), ("n", "attic"), ("s", "hall"), ("n", "attic"))
    # The first look at the hall is the question; from the third step on states are seen again.
    assert seen("state_cycle", talk) == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_looking_around_and_going_back_is_no_cycle() -> None:
    talk = walk(("n", "attic"), ("s", "hall"), ("e", "kitchen"), ("w", "hall"), ("w", "garden"))
    assert seen("state_cycle", talk) == [0.0] * 5


def test_staying_where_one_is_is_left_to_other_rules() -> None:
    talk = walk(("n", "wall"), ("n", "wall"), ("n", "wall"))
    assert seen("state_cycle", talk) == [0.0] * 3
    assert seen("repeated_call", talk) == [0.0, 1.0, 1.0]


def test_states_that_signals_name_make_cycles_too() -> None:
    states = [RewardTerm(name="signal.state", value=0, weight=0, feedback=name) for name in "abaab"]
    steps = [make_step(response=answer("on"), terms=[state]) for state in states]
    assert seen("state_cycle", steps) == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_no_progress_is_the_third_step_in_a_row_that_brings_nothing_new() -> None:
    talk = Talk()
    for n in range(6):
        talk.calls(adding(n, "?"), results=["error: integers, please"])
    talk.says("I give up.")
    assert seen("no_progress", talk) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_anything_new_is_progress() -> None:
    talk = Talk()
    for n in range(3):
        talk.calls(adding(n, "?"), results=["error: integers, please"])
    talk.calls(adding(1, 1), results=["2"])
    for n in range(3):
        talk.calls(adding(n, "?"), results=["error: integers, please"])
    talk.calls(adding(9, "?"), results=["error: still no integer"])
    assert seen("no_progress", talk) == [0.0] * 6 + [1.0, 0.0]


def test_different_work_with_equal_answers_is_progress() -> None:
    talk = Talk()
    for n in range(8):
        talk.calls(adding(n, n), results=["ok"])
    assert seen("no_progress", talk) == [0.0] * 8


def test_saying_the_same_again_and_again_is_no_progress() -> None:
    talk = Talk()
    for _ in range(5):
        talk.says("Go north.", reply="Nothing happens.")
    talk.says("Go south.", reply="Nothing happens.")
    assert seen("no_progress", talk) == [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("protocol", list(Protocol))
def test_empty_output(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.says("  ")
    talk.says("4")
    assert seen("empty_output", talk) == [1.0, 0.0]


def test_nobody_is_blamed_for_an_answer_that_never_came() -> None:
    talk = Talk()
    for status in (CompletionStatus.ERROR, CompletionStatus.CANCELLED):
        talk.says("", status=status, finish_reason=None)
    talk.steps.append(make_step(response=None, finish_reason="length"))
    for rule in RULES:
        if rule.name != "abandonment":
            assert seen(rule.name, talk) == [0.0] * 3, rule.name


@pytest.mark.parametrize("protocol", list(Protocol))
def test_truncated_output(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.says("4 because", finish_reason="length")
    talk.says("4")
    assert seen("truncated_output", talk) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("sampled", "limit", "expected"),
    [
        (800, 1000, 0.0),
        (900, 1000, 0.5),
        (1000, 1000, 1.0),
        (9000, None, 1.0),
        (7373, None, 0.5),
        (99, 100, 0.0),
    ],
)
def test_overlong_output_by_hand(sampled: int, limit: int | None, expected: float) -> None:
    # The last fifth of 1000 begins at 800; that of 8192, the default, at 6553.6.
    request = {} if limit is None else {"max_tokens": limit}
    step = make_step(sampled=range(sampled), request=request, response=answer("…"))
    assert seen("overlong_output", [step]) == [pytest.approx(expected, abs=1e-3)]


def test_overlong_output_leaves_what_was_cut_off_to_the_other_rule() -> None:
    step = make_step(sampled=range(900), response=answer("…"), finish_reason="length")
    assert overlong_output.rule(500).measure(turns([step])) == [0.0]
    step = step.model_copy(update={"finish_reason": "stop"})
    assert overlong_output.rule(500).measure(turns([step])) == [1.0]


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        (Timings(queue_s=1.0, total_s=11.0), 0.0),
        (Timings(queue_s=0.0, total_s=15.0), 0.5),
        (Timings(queue_s=100.0, total_s=110.0), 0.0),
        (Timings(total_s=1000.0), 1.0),
        (Timings(), 0.0),
        (None, 0.0),
    ],
)
def test_latency_over_budget_by_hand(timings: Timings | None, expected: float) -> None:
    step = make_step(response=answer(), timings=timings)
    assert latency_over_budget.rule(10.0).measure(turns([step])) == [expected]


def test_a_recovery_makes_good_one_failed_call() -> None:
    talk = Talk()
    talk.calls(adding(1, "x"), adding(1, "y"), results=["error: no", "error: no"])
    talk.calls(adding(1, "z"), results=["error: no"])
    talk.calls(adding(1, 2), adding(1, 3), results=["3", "4"])
    talk.calls(adding(1, 4), adding(1, 5), results=["5", "6"])
    talk.says("6")
    assert seen("recovered_error", talk) == [0.0, 0.0, 2.0, 1.0, 0.0]


def test_only_the_same_tool_of_the_same_agent_recovers() -> None:
    failing, other = Talk(), Talk(agent="helper")
    failing.calls(adding(1, "x"), results=["error: no"])
    failing.calls(adding(1, 2), name="subtract", results=["3"])
    failing.says("…")
    other.calls(adding(1, 2), results=["3"])
    other.says("3")
    assert seen("recovered_error", [*failing.steps, *other.steps]) == [0.0] * 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", 1.0),
        ("I’m sorry, but I can’t assist with that request.", 1.0),
        ("I cannot help you with this.", 1.0),
        ("Sorry, I am unable to assist.", 1.0),
        ("As an AI language model, I cannot participate.", 1.0),
        ("Unfortunately, I won't do that.", 1.0),
        ("I can't find the file; it is not in this folder.", 0.0),
        ("I'm sorry for the delay. The answer is 4.", 0.0),
        ("I can help with that.", 0.0),
        ("Sorry, but no.", 1.0),
        ("I must respectfully decline.", 1.0),
        ("No, I can't help with that.", 1.0),
        ("I'm afraid I can't do that.", 1.0),
        ("As an AI language model, I cannot provide that.", 1.0),
        ("I'm sorry, I can't answer that.", 1.0),
        ("Sorry, but I can't continue with this request.", 1.0),
        ("I don't feel comfortable helping with that.", 1.0),
        ("I can't do that in one step, so here are two:", 0.0),
        ("No, I can do that: 4", 0.0),
        ("I cannot answer without the file; which one is it?", 0.0),
        ("I have to decline", 1.0),
        ("I'm sorry, but no file has that name.", 0.0),
        ("I must decline two nouns: rosa, rosae.", 0.0),
        ("I cannot help but be impressed: 4", 0.0),
        ("I can't really help but support this", 0.0),
        ("I can’t help noticing that 4 is even.", 0.0),
        ("I cannot help it that the sum is 4.", 0.0),
        ("I can't help you cheating.", 1.0),
        ("I cannot help. Ask a doctor.", 1.0),
        ("I can't help, but a doctor can.", 1.0),
        ("I can't help anything like this.", 1.0),
        ("The error says 'I cannot help you'.", 0.0),
        ("4", 0.0),
    ],
)
@pytest.mark.parametrize("protocol", list(Protocol))
def test_refusals(protocol: Protocol, text: str, expected: float) -> None:
    talk = Talk(protocol)
    talk.says(text)
    assert seen("refusal", talk) == [expected]


def test_a_protocol_may_say_that_the_model_refused() -> None:
    response: dict[str, Any] = {"choices": [{"message": {"content": None, "refusal": "No."}}]}
    assert seen("refusal", [make_step(response=response)]) == [1.0]
    assert seen("empty_output", [make_step(response=response)]) == [0.0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("No, that's wrong.", 1.0),
        ("That is not what I asked for", 1.0),
        ("That's incorrect", 1.0),
        ("I said three, not two!", 1.0),
        ("you forgot the tests", 1.0),
        ("Try again", 1.0),
        ("Nope, it's 6", 1.0),
        ("nope", 1.0),
        ("No, it is not good", 1.0),
        ("Wrong!", 1.0),
        ("wrong, it's 6", 1.0),
        ("Wrong answer.", 1.0),
        ("wrong it should be 6", 1.0),
        ("Incorrect", 1.0),
        ("Incorrect: the sum is 6", 1.0),
        ("No it isn't", 1.0),
        ("no that does not work", 1.0),
        ("It's not working", 1.0),
        ("that didn't work", 1.0),
        ("It still fails", 1.0),
        ("Your answer is wrong", 1.0),
        ("The output was impressive", 0.0),
        ("That's the wrong file", 1.0),
        ("That isn't what I asked for", 1.0),
        ("I didn't ask for that", 1.0),
        ("You made a mistake", 1.0),
        ("you made a good point", 0.0),
        ("Actually, I meant three", 1.0),
        ("I meant to thank you", 0.0),
        ("I wanted to ask something else", 0.0),
        ("fix it", 0.0),
        ("It's not working hours now", 0.0),
        ("I said thanks!", 0.0),
        ("Try again later works for me", 0.0),
        ("Nope, all good!", 0.0),
        ("Nope, that's all", 0.0),
        ("nope thanks", 0.0),
        ("No, looks good", 0.0),
        ("No, you're right", 0.0),
        ("No, everything is fine", 0.0),
        ("Wrong answers are listed below", 0.0),
        ("Incorrect forms of the verb, please", 0.0),
        ("Wrongly accused people: how many?", 0.0),
        ("No, thanks", 0.0),
        ("no problem!", 0.0),
        ("No, that's all.", 0.0),
        ("Now do the next one", 0.0),
        ("Thanks, that's right", 0.0),
        ("Wonderful", 0.0),
        ("", 0.0),
    ],
)
@pytest.mark.parametrize("protocol", WITH_TOOLS)
def test_corrections_blame_the_step_before_them(protocol: Protocol, reply: str, expected: float) -> None:
    talk = Talk(protocol)
    talk.calls(adding(2, 3), results=["5"])
    talk.says("5", reply=reply)
    talk.says("4", reply="Thanks")
    talk.says("You are welcome.")
    assert seen("user_correction", talk) == [0.0, expected, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which file do you mean?", 1.0),
        ('Shall I delete "a"?" ', 1.0),
        ("**Do you agree?**", 1.0),
        ("どのファイルですか？", 1.0),
        ("It is 4. Is there anything else I can help you with?", 0.0),
        ("Done. Do you have any other questions?", 0.0),
        ("Is it 4? Yes.", 0.0),
    ],
)
def test_a_rollout_that_ends_with_a_question_is_abandoned(text: str, expected: float) -> None:
    talk = Talk()
    talk.says("Which numbers?", reply="2 and 2")
    talk.says(text)
    assert seen("abandonment", talk) == [0.0, expected]


def test_whoever_hangs_up_abandons_the_last_step_only() -> None:
    talk = Talk()
    talk.says("", status=CompletionStatus.CANCELLED)
    talk.says("4")
    assert seen("abandonment", talk) == [0.0, 0.0]
    talk.says("", status=CompletionStatus.CANCELLED)
    talk.says("", status=CompletionStatus.ERROR)
    assert seen("abandonment", talk) == [0.0, 0.0, 1.0, 0.0]


def test_a_rollout_that_ends_with_a_call_is_over() -> None:
    talk = Talk()
    talk.calls('{"answer": "is it 4?"}', name="submit")
    assert seen("abandonment", talk) == [0.0]


def test_every_rule_has_a_file_of_its_name_and_says_what_it_is_for() -> None:
    folder = Path(latency_over_budget.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == BY_NAME.keys()
    for rule in RULES:
        assert rule.weight, rule.name
        assert 0 < rule.at_most < 10, rule.name
        assert rule.sees, rule.name
        assert rule.why, rule.name


def test_the_page_lists_every_rule_as_it_is() -> None:
    page = (Path(__file__).parents[3] / "docs/reward.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| ([+-][\d.]+) \| (\d+) (step|call)s? \| (.*) \| (.*) \|$", page, re.MULTILINE
    )
    written = [
        (rule.name, f"{rule.weight:+g}", f"{rule.at_most:g}", rule.per, rule.sees, rule.why) for rule in RULES
    ]
    assert rows == written
