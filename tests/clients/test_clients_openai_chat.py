"""OpenAI's client and chat completions: it gets what the replica sent, and what was sampled is recorded."""

import json

import pytest
from client_checks import Json, extends, without
from client_programs import ClientProgram, ClientRaised, Programs
from client_stack import POLICY, Stack
from replica_script import Call, Turn, ids, logprob, prompt_tokens
from scripted_replica import ScriptedReplica, events

from leyden_schemas import CompletionStatus, Protocol, Split

pytestmark = pytest.mark.kafka

HELLO: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is 3 * 4?"}]}
CALCULATOR: Json = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Computes.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
TWO_CALLS = Turn(
    calls=(Call("calculator", '{"a": 3, "b": 4}', "call_1"), Call("calculator", '{"a": 5, "b": 6}', "call_2"))
)
WHOLE = ("chat", "chat_async")
STREAMED = ("chat_stream", "chat_stream_async")


@pytest.fixture
def openai(program: Programs) -> ClientProgram:
    return program("use_openai")


def as_asked(sent: Json, *, usage: bool = False) -> Json:
    """What the replica sent, without the ids, log-probabilities and usage that the caller did not ask for."""
    choices = [{**without(choice, "token_ids"), "logprobs": None} for choice in sent["choices"]]
    hidden = ("prompt_token_ids",) if usage else ("prompt_token_ids", "usage")
    return {**without(sent, *hidden), "choices": choices}


def text_of(chunks: list[Json], index: int = 0) -> str:
    """The text of one alternative."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_models(stack: Stack, openai: ClientProgram) -> None:
    listed = openai.run("models", api=stack.caller().openai)
    assert listed == [POLICY, f"{POLICY}#serving", f"{POLICY}@1"]


@pytest.mark.parametrize("name", [f"{POLICY}@1", f"{POLICY}#serving", POLICY])
def test_one_model(stack: Stack, openai: ClientProgram, name: str) -> None:
    found = openai.run("model", api=stack.caller().openai, name=name)
    assert (found["id"], found["object"], found["owned_by"]) == (name, "model", "leyden")


def test_a_model_that_is_not_there(stack: Stack, openai: ClientProgram) -> None:
    with pytest.raises(ClientRaised, match="no model 'other'; there are: "):
        openai.run("model", api=stack.caller().openai, name="other")


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_completion(stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str) -> None:
    caller = stack.caller(agent="solver")
    got = openai.run(case, api=caller.openai, **HELLO, temperature=0.2, seed=7, user="u-1")
    record, seen = stack.record(caller), replica.seen[0]
    assert got["answer"] == as_asked(seen.sent(), usage=True)
    assert got["headers"] == {
        "x-leyden-completion-id": str(record.completion_id),
        "x-leyden-model": f"{POLICY}@1",
        "x-leyden-sampling": "forced",
        "x-leyden-overridden": "temperature",
        "x-leyden-rollout-id": str(record.rollout_id),
    }
    assert (record.protocol, record.streamed, record.agent) == (Protocol.CHAT, False, "solver")
    assert (record.status, record.untrainable, record.finish_reason) == (CompletionStatus.OK, None, "stop")
    assert record.request == {**HELLO, "temperature": 0.2, "seed": 7, "user": "u-1"}
    assert record.prompt_token_ids == ids(prompt_tokens(HELLO))
    tokens = replica.turns[0].tokens()
    assert record.token_ids == ids(tokens)
    assert record.logprobs == [logprob(token) for token in tokens]
    assert record.sampling.overridden == {"temperature": 0.2}
    assert (seen.request["temperature"], seen.request["seed"], seen.request["model"]) == (
        0.9,
        7,
        f"{POLICY}@1",
    )


def test_the_request_s_id_is_the_completion_s(stack: Stack, openai: ClientProgram) -> None:
    caller = stack.caller()
    told = openai.run("request_id", api=caller.openai, **HELLO)
    assert told == str(stack.record(caller).completion_id)


@pytest.mark.parametrize("case", STREAMED)
def test_a_stream(stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str) -> None:
    caller = stack.caller()
    got = openai.run(case, api=caller.openai, **HELLO)
    record, seen = stack.record(caller), replica.seen[0]
    assert got["chunks"] == [as_asked(chunk) for chunk in seen.chunks() if chunk["choices"]]
    assert text_of(got["chunks"]) == "The answer is 12."
    assert got["headers"]["x-leyden-completion-id"] == str(record.completion_id)
    tokens = replica.turns[0].tokens()
    assert (record.streamed, record.untrainable, record.finish_reason) == (True, None, "stop")
    assert (record.prompt_token_ids, record.token_ids) == (ids(prompt_tokens(HELLO)), ids(tokens))
    assert record.logprobs == [logprob(token) for token in tokens]
    assert record.request == {**HELLO, "stream": True}
    assert record.timings.first_token_s is not None


def test_a_stream_with_usage(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    got = openai.run(
        "chat_stream", api=stack.caller().openai, **HELLO, stream_options={"include_usage": True}
    )
    assert got["chunks"] == [as_asked(chunk, usage=True) for chunk in replica.seen[0].chunks()]
    assert got["chunks"][-1]["usage"]["completion_tokens"] == len(replica.turns[0].tokens())


@pytest.mark.parametrize("case", ["chat", "chat_stream"])
@pytest.mark.parametrize("split", [Split.TRAIN, Split.EVAL])
def test_ids_and_logprobs_that_are_asked_for_arrive(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str, split: Split
) -> None:
    caller = stack.caller(split=split)
    asked = {**HELLO, "logprobs": True, "top_logprobs": 3, "extra_body": {"return_token_ids": True}}
    got = openai.run(case, api=caller.openai, **asked)
    if case == "chat":
        assert got["answer"] == replica.seen[0].sent()
        assert len(got["answer"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
        assert got["answer"]["prompt_token_ids"] == ids(prompt_tokens(HELLO))
    else:
        sent = [without(chunk, "usage") for chunk in replica.seen[0].chunks() if chunk["choices"]]
        assert got["chunks"] == sent
        assert got["chunks"][0]["prompt_token_ids"] == ids(prompt_tokens(HELLO))
    tokens = replica.turns[0].tokens()
    assert stack.record(caller).logprobs == [logprob(token) for token in tokens]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_that_need_no_change_keep_every_byte(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, *, stream: bool
) -> None:
    replica.script(Turn("Grüße aus Köln: 3 × 4 = 12 🎉"))
    asked: Json = {**HELLO, "logprobs": True, "extra_body": {"return_token_ids": True}}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    assert openai.run("chat_bytes", api=stack.caller().openai, **asked) == replica.seen[0].answer.decode()


def test_bytes_of_a_stream_differ_only_where_something_was_removed(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    replica.script(Turn("Grüße 🎉"))
    got = events(openai.run("chat_bytes", api=stack.caller().openai, **HELLO, stream=True).encode())
    sent = [as_asked(chunk) for chunk in replica.seen[0].chunks() if chunk["choices"]]
    assert [json.loads(event) for event in got[:-1]] == sent
    assert got[-1] == "[DONE]"


@pytest.mark.parametrize("case", ["chat_stream_helper", "chat_stream_helper_async"])
def test_the_stream_helper(stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str) -> None:
    replica.script(TWO_CALLS)
    caller = stack.caller()
    got = openai.run(case, api=caller.openai, **HELLO, tools=[CALCULATOR])
    (choice,) = got["answer"]["choices"]
    made = [(call["id"], call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]
    assert made == [(call.id, call.arguments) for call in TWO_CALLS.calls]
    assert choice["finish_reason"] == "tool_calls"
    if case == "chat_stream_helper":
        assert "tool_calls.function.arguments.done" in got["events"]
    record = stack.record(caller)
    assert (record.untrainable, record.token_ids) == (None, ids(TWO_CALLS.tokens()))


@pytest.mark.parametrize("case", ["chat", "chat_stream"])
def test_parallel_tool_calls(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str
) -> None:
    replica.script(TWO_CALLS)
    caller = stack.caller()
    asked = {
        **HELLO,
        "tools": [CALCULATOR],
        "tool_choice": {"type": "function", "function": {"name": "calculator"}},
        "parallel_tool_calls": True,
    }
    got = openai.run(case, api=caller.openai, **asked)
    record, seen = stack.record(caller), replica.seen[0]
    for name in ("tools", "tool_choice", "parallel_tool_calls"):
        assert record.request[name] == seen.request[name] == asked[name]
    calls = [call.as_json() for call in TWO_CALLS.calls]
    if case == "chat":
        assert got["answer"]["choices"][0]["message"]["tool_calls"] == calls
    assert record.response is not None
    assert record.response["choices"][0]["message"]["tool_calls"] == calls
    assert (record.finish_reason, record.token_ids) == ("tool_calls", ids(TWO_CALLS.tokens()))


def test_structured_output(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    replica.script(Turn('{"a": 3, "b": 4, "total": 7}'))
    caller = stack.caller()
    expected = {"a": 3, "b": 4, "total": 7}
    assert openai.run("chat_parse", api=caller.openai, **HELLO) == expected
    asked = replica.seen[0].request["response_format"]
    assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)
    assert openai.run("chat_stream_helper", api=caller.openai, structured=True, **HELLO)["parsed"] == expected
    first, second = stack.records(caller)
    assert first.request["response_format"] == second.request["response_format"] == asked
    assert (first.streamed, second.streamed) == (False, True)


@pytest.mark.parametrize("case", ["chat", "chat_stream"])
def test_each_alternative_is_recorded(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str
) -> None:
    caller = stack.caller()
    got = openai.run(case, api=caller.openai, **HELLO, n=3)
    turn, records = replica.turns[0], stack.records(caller)
    assert got["headers"]["x-leyden-completion-id"] == str(records[0].completion_id)
    assert len({record.completion_id for record in records}) == 3
    for index, record in enumerate(records):
        assert (record.untrainable, record.token_ids) == (None, ids(turn.tokens(index)))
        assert record.response is not None
        assert record.response["choices"][0]["message"]["content"] == turn.words(index)
        if case == "chat_stream":
            assert text_of(got["chunks"], index) == turn.words(index)


def test_parameters_and_unknown_fields_pass(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    asked: Json = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}],
        "stop": ["\n\n", "Observation:"],
        "seed": 11,
        "max_completion_tokens": 64,
        "metadata": {"team": "blue"},
    }
    unknown = {"chat_template_kwargs": {"enable_thinking": False}, "a_field_of_tomorrow": [1, {"b": None}]}
    caller = stack.caller(split=Split.EVAL)
    openai.run("chat", api=caller.openai, **asked, extra_body=unknown)
    record, seen = stack.record(caller), replica.seen[0].request
    assert record.request == {**asked, **unknown}
    assert {name: seen.get(name) for name in {**asked, **unknown}} == {
        **asked,
        **unknown,
        "model": f"{POLICY}@1",
    }


def test_reasoning_is_passed_and_recorded(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    turn = Turn("12", reasoning="Three times four.")
    replica.script(turn)
    caller = stack.caller()
    got = openai.run("chat_stream", api=caller.openai, **HELLO)
    thought = [chunk["choices"][0]["delta"].get("reasoning") or "" for chunk in got["chunks"]]
    assert "".join(thought) == turn.reasoning
    record = stack.record(caller)
    assert record.token_ids == ids(turn.tokens())
    assert record.response is not None
    assert record.response["choices"][0]["message"]["reasoning"] == turn.reasoning


def test_turns_of_a_conversation_extend_each_other(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    """Each prompt begins with what was recorded before it: prompt and sampled ids."""
    replica.script(Turn(calls=(Call("calculator", '{"a": 3, "b": 4}'),)), Turn("It is 12."), Turn("Bye!"))
    caller, messages = stack.caller(), list(HELLO["messages"])
    follow_ups = [
        {"role": "tool", "tool_call_id": "call_1", "content": "12"},
        {"role": "user", "content": "Thanks."},
    ]
    for follow_up in [*follow_ups, None]:
        got = openai.run("chat", api=caller.openai, model="m", messages=messages, tools=[CALCULATOR])
        messages += [got["answer"]["choices"][0]["message"], follow_up]
    first, second, third = stack.records(caller)
    assert extends(first, second)
    assert extends(second, third)
    assert [len(record.request["messages"]) for record in (first, second, third)] == [1, 3, 5]


def test_equal_calls_are_distinct_completions(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    caller = stack.caller()
    told = [
        openai.run("chat", api=caller.openai, **HELLO)["headers"]["x-leyden-completion-id"] for _ in range(3)
    ]
    records = stack.records(caller)
    assert told == [str(record.completion_id) for record in records]
    assert len(set(told)) == 3
    assert [record.token_ids for record in records] == [ids(replica.turns[0].tokens())] * 3


def test_a_client_that_hangs_up_leaves_what_was_sampled(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    turn = Turn("word " * 20_000)
    replica.script(turn)
    caller = stack.caller()
    assert openai.run("chat_abandoned", api=caller.openai, after=10, **HELLO) == 10
    record = stack.await_record(caller)
    assert (record.status, record.untrainable, record.streamed) == (
        CompletionStatus.CANCELLED,
        "cancelled",
        True,
    )
    assert 9 <= len(record.token_ids) < len(turn.tokens())
    assert record.token_ids == ids(turn.tokens())[: len(record.token_ids)]
    assert len(record.logprobs) == len(record.token_ids)
