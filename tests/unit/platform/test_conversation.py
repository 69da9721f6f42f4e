"""One shape for the conversations of all protocols: calls with their results, words, states, streams."""

import json
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.training_mode import Wants
from leyden_platform.conversation import Outcome, Result, says_error, shown, text_of, turns
from leyden_platform.conversation.reading import LOOK_AHEAD, WINDOW
from leyden_platform.dialects import messages, responses
from leyden_platform.testing.rollouts import TOOL, answer, call, make_step, tool_message
from leyden_platform.testing.talks import Talk, adding
from leyden_schemas import CompletionStatus, JsonObject, Protocol, RewardTerm, Step, Timings

WITH_TOOLS = [Protocol.CHAT, Protocol.RESPONSES, Protocol.MESSAGES]
QUESTION: JsonObject = {"role": "user", "content": "2 + 2"}


@pytest.mark.parametrize("protocol", WITH_TOOLS)
def test_calls_results_words_and_states_of_every_protocol(protocol: Protocol) -> None:
    talk = Talk(protocol)
    talk.calls(adding(2, 2), adding(3, 3), results=["4", "error: no"])
    talk.calls('{"a":', results=["Error: bad"])
    talk.says("It is 4.", reply="No, that's wrong.")
    talk.says("5?")
    first, second, third, last = turns(talk.steps)
    assert [(one.name, one.parsed, one.worked) for one in first.calls] == [
        ("add", {"a": 2, "b": 2}, True),
        ("add", {"a": 3, "b": 3}, False),
    ]
    assert first.outcomes == (Outcome("add", True), Outcome("add", False))
    assert (second.calls[0].parsed, second.calls[0].worked) == (None, False)
    assert first.tools == {"add": TOOL["function"]["parameters"]}
    assert (third.text, third.reaction) == ("It is 4.", "No, that's wrong.")
    assert (last.text, last.reaction) == ("5?", None)
    assert first.reaction == ""
    assert len({first.state, second.state, third.state, last.state}) == 4


def test_a_function_of_the_time_before_tools_is_a_call() -> None:
    made = {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 2}'}}
    offered = [{"name": "add", "parameters": {"type": "object"}}]
    heard = {"role": "function", "name": "add", "content": "Error: no b"}
    first = make_step(
        request={"messages": [QUESTION], "functions": offered}, response={"choices": [{"message": made}]}
    )
    then = make_step(request={"messages": [QUESTION, made, heard], "functions": offered}, response=answer())
    (turn, _) = turns([first, then])
    (one,) = turn.calls
    assert (one.name, one.parsed, one.result) == ("add", {"a": 2}, Result("Error: no b"))
    assert turn.outcomes == (Outcome("add", False),)
    assert turn.tools == {"add": {"type": "object"}}


def test_text_completions_have_text_and_why_they_ended() -> None:
    talk = Talk(Protocol.COMPLETIONS)
    talk.says("It is 4.", finish_reason="length")
    (turn,) = turns(talk.steps)
    assert (turn.answered, turn.text, turn.finish_reason) == (True, "It is 4.", "length")
    assert (turn.calls, turn.tools, turn.state) == ((), {}, ("user 2 + 2",))


@pytest.mark.parametrize(
    ("prompt", "state"),
    [("x" * 5000, ("user " + "x" * 4096,)), (["one", "two"], ("one", "two")), ([1, 2, 3], ("1", "2", "3"))],
)
def test_a_prompt_may_be_a_text_texts_or_token_ids(prompt: Any, state: tuple[str, ...]) -> None:
    step = make_step(request={"prompt": prompt}, response={"choices": [{"text": "4"}]})
    assert turns([step])[0].state == state


def chunks() -> list[JsonObject]:
    """A chat completion that calls a tool, in pieces."""

    def chunk(delta: JsonObject, finish: str | None = None) -> JsonObject:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}

    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a": 2, ', '"b": 2}')]
    return [
        chunk({"role": "assistant", "content": "I "}),
        chunk({"content": "add."}),
        *(chunk({"tool_calls": [piece]}) for piece in (head, *pieces)),
        chunk({}, "tool_calls"),
    ]


def streamed_chat() -> JsonObject:
    capture = Capture()
    for chunk in chunks():
        raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in chunk.items()}
        capture.chunk(raw, Wants(logprobs=False, token_ids=False, usage=False))
    whole = capture.response(capture.choices[0])
    decoded: JsonObject = json.loads(msgspec.json.encode(whole))
    return decoded


def streamed_response() -> JsonObject:
    stream = responses.ResponsesStream({"input": "2 + 2"}, response_id="resp_1", created_at=0)
    for chunk in chunks():
        stream.chunk(chunk)
    stream.end()
    return stream.response()


def streamed_message() -> JsonObject:
    stream = messages.MessagesStream({"messages": [QUESTION]}, message_id="msg_1")
    for chunk in chunks():
        stream.chunk(chunk)
    stream.end()
    return stream.message()


@pytest.mark.parametrize("response", [streamed_chat(), streamed_response(), streamed_message()])
def test_streamed_answers_are_read_like_whole_ones(response: JsonObject) -> None:
    (turn,) = turns([make_step(request={"messages": [QUESTION]}, response=response)])
    assert turn.text == "I add."
    assert [(one.name, one.parsed) for one in turn.calls] == [("add", {"a": 2, "b": 2})]


@pytest.mark.parametrize(
    ("response", "refused", "finish_reason"),
    [
        ({"choices": [{"message": {"content": None, "refusal": "No."}}]}, True, None),
        (
            {"choices": [{"message": {"content": "a"}, "finish_reason": "content_filter"}]},
            True,
            "content_filter",
        ),
        ({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]}, True, None),
        (
            {"output": [], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            False,
            "length",
        ),
        ({"type": "message", "content": [], "stop_reason": "refusal"}, True, None),
        ({"type": "message", "content": [], "stop_reason": "max_tokens"}, False, "length"),
    ],
)
def test_refusals_and_limits_in_the_words_of_each_protocol(
    response: JsonObject, refused: bool, finish_reason: str | None
) -> None:
    (turn,) = turns([make_step(response=response, finish_reason=None)])
    assert (turn.answered, turn.refused, turn.finish_reason) == (True, refused, finish_reason)


@pytest.mark.parametrize(
    "step",
    [
        make_step(response=None),
        make_step(response={"object": "list", "usage": {}}),
        make_step(response={"choices": []}),
        make_step(response={"type": "error", "error": {"message": "overloaded"}}),
        make_step(response={"output": [], "status": "failed"}),
        make_step(response=answer(""), status=CompletionStatus.ERROR),
        make_step(response=answer(None), status=CompletionStatus.CANCELLED),
    ],
)
def test_what_no_caller_got_is_no_answer(step: Step) -> None:
    (turn,) = turns([step])
    assert not turn.answered
    assert (turn.text, turn.calls) == ("", ())
    assert turn.cancelled is (step.status is CompletionStatus.CANCELLED)


def test_reasoning_in_front_of_a_text_is_not_the_text() -> None:
    (turn,) = turns([make_step(response=answer("<think>\n2 and 2?\n</think>\n\n4"))])
    assert turn.text.strip() == "4"


def after(*history: JsonObject, response: JsonObject | None = None, **changes: Any) -> Step:
    request = {"messages": [QUESTION, *history], "tools": [TOOL]}
    return make_step(request=request, response=response or answer(), **changes)


def calling(*ids: str) -> JsonObject:
    return {"role": "assistant", "content": None, "tool_calls": [call(call_id=name) for name in ids]}


def results_of(steps: list[Step], t: int = 0) -> list[str | None]:
    return [one.result.text if one.result else None for one in turns(steps)[t].calls]


def test_call_ids_may_be_used_again() -> None:
    first = after(response=answer(None, [call()]))
    history = [calling("c1"), tool_message("3")]
    second = after(*history, response=answer(None, [call()]))
    third = after(*history, calling("c1"), tool_message("4"))
    assert [results_of([first, second, third], t) for t in (0, 1)] == [["3"], ["4"]]


def test_an_agent_that_asks_again_has_not_answered_the_call() -> None:
    history = [calling("c1"), tool_message("3")]
    first = after(*history, response=answer(None, [call()]))
    again = after(*history, response=answer(None, [call()]))
    assert results_of([first, again]) == [None]


def test_results_are_found_in_a_history_that_was_rewritten() -> None:
    first = after(QUESTION, QUESTION, response=answer(None, [call(), call(call_id="c2")]))
    summed_up = make_step(
        request={
            "messages": [
                {"role": "user", "content": "so far: nothing"},
                calling("c1", "c2"),
                tool_message("4", "c2"),
                tool_message("3", "c1"),
            ]
        }
    )
    assert results_of([first, summed_up]) == ["3", "4"]


def test_results_are_sought_in_the_same_agents_next_steps_only() -> None:
    first = after(response=answer(None, [call()]))
    other = after(calling("c1"), tool_message("not mine"), agent="helper")
    mine = after(calling("c1"), tool_message("4"))
    assert results_of([first, other, mine]) == ["4"]
    unrelated = [after(agent="main") for _ in range(LOOK_AHEAD)]
    assert results_of([first, *unrelated[1:], mine]) == ["4"]
    assert results_of([first, *unrelated, mine]) == [None]


def test_many_parallel_calls_find_all_their_results() -> None:
    ids = [f"c{n}" for n in range(3 * WINDOW)]
    first = after(response=answer(None, [call(call_id=name) for name in ids]))
    last = after(calling(*ids), *(tool_message(name, name) for name in ids))
    assert results_of([first, last]) == ids


def test_responses_may_have_each_result_behind_its_call() -> None:
    def item(kind: str, call_id: str, **fields: str) -> JsonObject:
        return {"type": kind, "call_id": call_id, **fields}

    calls = [item("function_call", name, name="add", arguments="{}") for name in ("c1", "c2")]
    outputs = [item("function_call_output", name, output=name) for name in ("c1", "c2")]
    first = make_step(request={"input": "2 + 2"}, response={"output": calls, "status": "completed"})
    last = make_step(request={"input": [QUESTION, calls[0], outputs[0], calls[1], outputs[1]]})
    assert results_of([first, last]) == ["c1", "c2"]


def span(name: str, value: float, text: str | None = None) -> RewardTerm:
    return RewardTerm(name=f"signal.tool.{name}", value=value, weight=0.0, feedback=text)


def test_spans_count_for_more_than_what_the_conversation_shows() -> None:
    step = after(response=answer(None, [call(), call(call_id="c2")]), terms=[span("add", 0.0, "timed out")])
    last = after(calling("c1", "c2"), tool_message("4"), tool_message("5", "c2"))
    first = turns([step, last])[0]
    assert [one.result for one in first.calls] == [Result("timed out", failed=True), Result("5")]
    assert [one.worked for one in first.calls] == [False, True]


def test_a_span_may_name_its_call_and_needs_no_result_in_the_conversation() -> None:
    terms = [span("add", 1.0), span("add:c2", 0.0)]
    step = after(response=answer(None, [call(), call(call_id="c2")]), terms=terms)
    assert [one.worked for one in turns([step])[0].calls] == [True, False]


def test_spans_stand_for_calls_that_the_response_does_not_show() -> None:
    talk = Talk(Protocol.COMPLETIONS)
    talk.says("Action: search[2 + 2]", terms=[span("search", 0.0), span("search:x", 1.0)])
    (turn,) = turns(talk.steps)
    assert turn.outcomes == (Outcome("search", False), Outcome("search", True))


def test_a_signal_names_the_state() -> None:
    named = RewardTerm(name="signal.state", value=0.0, weight=0.0, feedback="hall")
    assert turns([after(terms=[named])])[0].state == "hall"


def test_states_leave_out_the_ids_of_calls() -> None:
    def state(name: str) -> object:
        return turns([after(calling(name), tool_message("4", name))])[0].state

    assert state("c1") == state("c2") == ("result 4\nuser ",)


def test_the_users_words_follow_only_where_the_same_conversation_goes_on() -> None:
    said = {"role": "assistant", "content": "4"}
    asked = after()
    other = make_step(request={"messages": [{"role": "user", "content": "3 + 3"}, said, QUESTION, QUESTION]})
    going_on = after(said, {"role": "user", "content": "Thanks."})
    assert turns([asked, other])[0].reaction is None
    assert turns([asked, other, going_on])[0].reaction == "Thanks."


def test_what_took_time_and_how_much_was_sampled() -> None:
    timed = after(timings=Timings(queue_s=2.0, total_s=5.0), sampled=(1, 2, 3))
    counted = make_step(sampled=(), response={**answer(), "usage": {"completion_tokens": 7}})
    untimed = after(timings=Timings())
    assert [turn.serving_s for turn in turns([timed, counted, untimed])] == [3.0, None, None]
    assert [turn.tokens for turn in turns([timed, counted])] == [3, 7]


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_output_tokens": 6}, 6),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": "7"}, None),
        ({"max_tokens": True}, None),
        ({}, None),
    ],
)
def test_the_limit_of_an_answer(request_: JsonObject, limit: int | None) -> None:
    assert turns([make_step(request=request_)])[0].limit == limit


def test_an_unknown_request_offers_nobody_knows_what() -> None:
    assert turns([make_step(request={})])[0].tools is None
    assert turns([make_step(request={"messages": []})])[0].tools == {}


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
        ("[" * 100_000, False),
        ('{"a":' * 100_000, False),
        # Texts about errors.
        ("Error correction codes are used in memory", False),
        ("Error-correcting codes", False),
        ("Error analysis: a primer", False),
        ("Errors: 0", False),
        ("Error: none", False),
        ("Tool call failed: none", False),
        ("The query failed states of Africa", False),
        ("Exception handling in Python", False),
        ("Exceptional weather today", False),
        ("IOError is an alias of OSError", False),
        ("Standard error: 0.05", False),
        ("Mean squared error: 0.3", False),
        ("Validation error: 0.31", False),
        ("Failure modes of bridges", False),
        ("Fatal Attraction (1987)", False),
        ("Tests failed: 0", False),
        ("2 tests failed, 3 passed", False),
        ("HTTP 500 errors explained", False),
        ("HTTP 200", False),
        ("500 people came", False),
        ("404 items not found in stock", False),
        ("Tutorial: command not found errors in bash", False),
        ("Not found guilty, he left", False),
        ("Invalidity of treaties", False),
        ("Missing persons: a list", False),
        ("Timed out players return", False),
        ("exit code 0", False),
        # Failures that do not begin with the word.
        ("Failed to connect", True),
        ("Failed to connect to localhost port 80", True),
        ("Could not resolve host: example.com", True),
        ("Couldn't open the file", True),
        ("Unable to read x", True),
        ("Cannot find module 'x'", True),
        ("bash: foo: command not found", True),
        ("bash: line 1: foo: command not found\n", True),
        ("zsh: command not found: foo", True),
        ("/bin/sh: 1: foo: Permission denied", True),
        ("ls: cannot access 'x': No such file or directory", True),
        ("Permission denied", True),
        ("Access denied.", True),
        ("HTTP 500", True),
        ("HTTP 404: no such page", True),
        ("HTTP/1.1 503 Service Unavailable", True),
        ("HTTP status 429", True),
        ("404 Not Found", True),
        ("Internal Server Error", True),
        ("Request timed out after 30 s", True),
        ("An error occurred while running the tool. Please try again. Error: no such city", True),
        ("An unexpected error has occurred", True),
        ("An error occurs in chapter 3", False),
        ("Tool not found: add", True),
        ("Rate limit exceeded, try again in 5 s", True),
        ("Not found: 0", False),
        ("Not found: user 7", True),
        ("Missing values: none", False),
        ("Missing values: price", True),
        ("Timed out", True),
        ("Tool execution failed: bad arguments", True),
        ("Command failed with exit code 1", True),
        ("Tool 'add' not found", True),
        ("Invalid JSON", True),
        ("Missing required argument 'x'", True),
        ("2 validation errors for addArguments", True),
        # Ways to write the word.
        ("ERROR", True),
        ("Error", True),
        ("error!", True),
        ("Error - no file", True),
        ("Error 404: gone", True),
        ("error[E0382]: borrow of moved value", True),
        ("Error code: 400 - {'error': 1}", True),
        ("Error executing tool add: no", True),
        ("Error invoking tool 'add' with kwargs {}", True),
        ("Error in cell 3: no", True),
        ("[ERROR] no", True),
        ("<tool_use_error>no</tool_use_error>", True),
        ("**Error:** no", True),
        ("❌ Error: no", True),
        ("MCP error -32602: Invalid arguments", True),
        ("Input validation error: 'x' is a required property", True),
        ("fatal: not a git repository", True),
        ("Uncaught TypeError: x is not a function", True),
        ("KeyError('x')", True),
        ("java.lang.NullPointerException\n\tat Main", True),
        # JSON.
        ('[{"error":"x"}]', True),
        ('[{"error":"x"}, {"error":"y"}]', True),
        ('[{"error":"x"}, {"result":4}]', False),
        ('[{"type": "text", "text": "Error: no"}]', True),
        ('[{"type": "text", "text": "4"}]', False),
        ("[]", False),
        ("[1, 2]", False),
        ("[error] not JSON", True),
        ('{"errors": [{"message": "x"}], "data": null}', True),
        ('{"errors": [], "data": 4}', False),
        ('{"error": 0.05}', False),
        ('{"error": "none"}', False),
        ('{"error": {"code": 1}}', True),
        ('{"status": 404}', True),
        ('{"status": 200}', False),
        ('{"status_code": 500, "body": ""}', True),
        ("null", False),
    ],
)
def test_what_counts_as_an_error(text: str, expected: bool) -> None:
    assert says_error(text) is expected


def test_content_as_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:a"}}
    parts = [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}]
    assert text_of(parts) == "ab"
    assert text_of(7) == ""
    assert shown(parts) == 'a{"image_url":{"url":"data:a"},"type":"image_url"}b'
    assert (shown(None), shown("a"), shown({"b": 1})) == ("", "a", '{"b":1}')


def test_completion_ids_are_not_needed() -> None:
    assert turns([]) == []
    assert len(turns([make_step(completion_id=uuid4())] * 3)) == 3
