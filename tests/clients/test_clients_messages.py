"""Anthropic's client and Messages, token-exact on the log."""

import json

import pytest
from client_checks import Json, agreed, extends, leaks
from client_programs import ClientProgram, ClientRaised, Programs
from client_stack import POLICY, Stack
from replica_script import Call, Turn, ids, pieces, prompt_tokens
from scripted_replica import ScriptedReplica

from leyden_schemas import CompletionStatus, Protocol, Split

pytestmark = pytest.mark.kafka

HELLO: Json = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "What is 3 * 4?"}],
}
CALCULATOR: Json = {
    "name": "calculator",
    "description": "Computes.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
TWO_CALLS = Turn(
    "Let me see.",
    calls=(
        Call("calculator", '{"a": 3, "b": 4}', "call_1"),
        Call("calculator", '{"a": 5, "b": 6}', "call_2"),
    ),
)


@pytest.fixture
def anthropic(program: Programs) -> ClientProgram:
    return program("use_anthropic")


@pytest.mark.parametrize("case", ["message", "message_async"])
def test_a_whole_message(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram, case: str) -> None:
    caller = stack.caller(agent="solver")
    asked = {**HELLO, "system": "Be brief.", "metadata": {"user_id": "u-1"}}
    got = anthropic.run(case, api=caller.anthropic, **asked, extra_body={"temperature": 0.1})
    turn = replica.turns[0]
    (record,) = agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)
    assert got["headers"] == {
        "x-leyden-completion-id": str(record.completion_id),
        "x-leyden-model": f"{POLICY}@1",
        "x-leyden-sampling": "forced",
        "x-leyden-overridden": "temperature",
        "x-leyden-rollout-id": str(record.rollout_id),
    }
    answer = got["answer"]
    assert (answer["type"], answer["role"], answer["stop_reason"]) == ("message", "assistant", "end_turn")
    assert [(block["type"], block["text"]) for block in answer["content"]] == [("text", turn.text)]
    assert answer["usage"]["input_tokens"] == len(record.prompt_token_ids)
    assert answer["usage"]["output_tokens"] == len(turn.tokens())
    assert not leaks(answer)
    assert (record.agent, record.user, record.response) == ("solver", "u-1", answer)
    assert record.request == {**asked, "temperature": 0.1}
    assert record.sampling.overridden == {"temperature": 0.1}
    seen = replica.seen[0].request
    roles = [(message["role"], message["content"]) for message in seen["messages"]]
    assert roles == [("system", "Be brief."), ("user", "What is 3 * 4?")]
    assert (seen["max_tokens"], seen["user"]) == (64, "u-1")


def test_a_streamed_message(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    caller = stack.caller()
    got = anthropic.run("message_stream", api=caller.anthropic, **HELLO)
    turn, events = replica.turns[0], got["events"]
    (record,) = agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)
    assert got["headers"]["x-leyden-completion-id"] == str(record.completion_id)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert deltas == pieces(turn.text)
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] == len(turn.tokens())
    assert not leaks(events)
    assert record.request == {**HELLO, "stream": True}


def test_the_stream_helper(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    caller = stack.caller()
    got = anthropic.run("stream_helper_async", api=caller.anthropic, **HELLO)
    turn = replica.turns[0]
    assert got["pieces"] == pieces(turn.text)
    assert got["answer"]["content"][0]["text"] == turn.text
    (record,) = agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)
    assert record.response is not None
    assert record.response["content"] == [{"type": "text", "text": turn.text}]


@pytest.mark.parametrize("case", ["message", "stream_helper"])
def test_parallel_tool_use(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram, case: str
) -> None:
    replica.script(TWO_CALLS)
    caller = stack.caller()
    tools = {"tools": [CALCULATOR], "tool_choice": {"type": "tool", "name": "calculator"}}
    answer = anthropic.run(case, api=caller.anthropic, **HELLO, **tools)["answer"]
    assert answer["stop_reason"] == "tool_use"
    said, *used = answer["content"]
    assert said["text"] == TWO_CALLS.text
    made = [(block["id"], block["name"], block["input"]) for block in used]
    assert made == [(call.id, call.name, json.loads(call.arguments)) for call in TWO_CALLS.calls]
    (record,) = agreed(stack, caller, replica, TWO_CALLS, protocol=Protocol.MESSAGES)
    assert {name: record.request[name] for name in tools} == tools
    seen = replica.seen[0].request
    assert seen["tool_choice"] == {"type": "function", "function": {"name": "calculator"}}
    assert seen["tools"][0]["function"]["parameters"] == CALCULATOR["input_schema"]


def test_a_conversation_with_results_of_tools(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram
) -> None:
    turns = (TWO_CALLS, Turn("12 and 30."))
    replica.script(*turns)
    caller, asked = stack.caller(), {**HELLO, "tools": [CALCULATOR]}
    first = anthropic.run("message", api=caller.anthropic, **asked)["answer"]
    results = [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "12"},
        {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "30"}]},
    ]
    told = [
        *HELLO["messages"],
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": results},
    ]
    second = anthropic.run("message", api=caller.anthropic, **{**asked, "messages": told})["answer"]
    assert second["content"][0]["text"] == "12 and 30."
    one, two = agreed(stack, caller, replica, *turns, protocol=Protocol.MESSAGES)
    assert two.request["messages"] == told
    assert extends(one, two)


def test_its_own_agent_loop(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    """It asks the server to keep the conversation. Refused by the right code, it sends all of it itself."""
    turns = (Turn(calls=(Call("multiply", '{"a": 3, "b": 4}'),)), Turn("It is 12."))
    replica.script(*turns)
    caller = stack.caller()
    said = anthropic.run("run_tools", api=caller.anthropic, **HELLO)
    assert said[-1]["content"][0]["text"] == "It is 12."
    refused, first, second = stack.records(caller)
    assert (refused.status, refused.untrainable) == (CompletionStatus.ERROR, "invalid_request")
    assert [record.token_ids for record in (first, second)] == [ids(turn.tokens()) for turn in turns]
    assert extends(first, second)
    assert replica.seen[1].request["messages"][-1]["content"] == "12"


def test_a_thread_that_is_asked_for_is_refused(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram
) -> None:
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    with pytest.raises(ClientRaised, match="not stored here") as caught:
        anthropic.run("message", api=stack.caller().anthropic, **HELLO, extra_body={"thread": thread})
    assert "anthropic.ThreadUnsupportedRequestError" in caught.value.types
    assert not replica.seen


def test_structured_output(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    turn = Turn('{"a": 3, "b": 4, "total": 7}')
    replica.script(turn)
    caller = stack.caller()
    assert anthropic.run("parse", api=caller.anthropic, **HELLO) == json.loads(turn.text)
    agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)
    assert replica.seen[0].request["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("case", ["message", "stream_helper"])
def test_thinking_goes_there_and_back(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram, case: str
) -> None:
    turn = Turn("12.", reasoning="Three times four.")
    replica.script(turn)
    caller = stack.caller()
    content = anthropic.run(case, api=caller.anthropic, **HELLO)["answer"]["content"]
    assert [block["type"] for block in content] == ["thinking", "text"]
    assert content[0]["thinking"] == turn.reasoning
    told = [
        *HELLO["messages"],
        {"role": "assistant", "content": content},
        {"role": "user", "content": "Why?"},
    ]
    anthropic.run("message", api=caller.anthropic, **{**HELLO, "messages": told})
    agreed(stack, caller, replica, turn, turn, protocol=Protocol.MESSAGES)
    assert replica.seen[1].request["messages"][1]["reasoning"] == turn.reasoning


def test_images_and_parameters_pass(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    asked = {
        **HELLO,
        "messages": [{"role": "user", "content": content}],
        "stop_sequences": ["Observation:"],
    }
    parameters = {"temperature": 0.3, "top_k": 5, "seed": 7}
    caller = stack.caller(split=Split.EVAL)
    anthropic.run("message", api=caller.anthropic, **asked, extra_body=parameters)
    (record,) = agreed(stack, caller, replica, replica.turns[0], protocol=Protocol.MESSAGES)
    assert record.request == {**asked, **parameters}
    seen = replica.seen[0].request
    assert seen["messages"][0]["content"][1]["image_url"] == {"url": "data:image/png;base64,iVBORw0KGgo="}
    assert (seen["stop"], seen["temperature"], seen["top_k"], seen["seed"]) == (["Observation:"], 0.3, 5, 7)


def test_documents_and_turns_in_a_row(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram
) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "A dozen is 12."}
    told = [
        {"role": "user", "content": [{"type": "document", "source": source, "title": "Numbers"}]},
        {"role": "user", "content": "How many are two dozen?"},
    ]
    caller = stack.caller()
    anthropic.run("message", api=caller.anthropic, **{**HELLO, "messages": told})
    (record,) = agreed(stack, caller, replica, replica.turns[0], protocol=Protocol.MESSAGES)
    assert record.request["messages"] == told
    said = "Numbers\nA dozen is 12.\nHow many are two dozen?"
    assert replica.seen[0].request["messages"] == [{"role": "user", "content": said}]


@pytest.mark.parametrize("case", ["message", "stream_helper"])
def test_an_answer_that_was_cut_off(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram, case: str
) -> None:
    turn = Turn("It is", finish_reason="length")
    replica.script(turn)
    caller = stack.caller()
    assert anthropic.run(case, api=caller.anthropic, **HELLO)["answer"]["stop_reason"] == "max_tokens"
    agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)


def test_what_has_no_equivalent_is_refused(
    stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram
) -> None:
    caller = stack.caller()
    search = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(ClientRaised, match="built into Anthropic's models") as caught:
        anthropic.run("message", api=caller.anthropic, **HELLO, tools=[search])
    assert "anthropic.BadRequestError" in caught.value.types
    record = stack.record(caller)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, "invalid_request")
    assert not replica.seen


def test_the_request_s_id_is_the_completion_s(stack: Stack, anthropic: ClientProgram) -> None:
    caller = stack.caller()
    told = anthropic.run("request_id", api=caller.anthropic, **HELLO)
    assert told == str(stack.record(caller).completion_id)


def test_models(stack: Stack, anthropic: ClientProgram) -> None:
    assert f"{POLICY}@1" in anthropic.run("models", api=stack.caller().anthropic)


def test_litellm_speaks_messages(stack: Stack, replica: ScriptedReplica, program: Programs) -> None:
    caller = stack.caller()
    got = program("use_litellm").run("messages", api=caller.anthropic, messages=HELLO["messages"])
    turn = replica.turns[0]
    assert got["choices"][0]["message"]["content"] == turn.text
    agreed(stack, caller, replica, turn, protocol=Protocol.MESSAGES)


@pytest.mark.parametrize("name", [f"{POLICY}@1", f"{POLICY}#serving", POLICY])
def test_one_model(stack: Stack, anthropic: ClientProgram, name: str) -> None:
    found = anthropic.run("model", api=stack.caller().anthropic, name=name)
    assert (found["id"], found["type"], found["display_name"]) == (name, "model", name)


def test_tokens_are_counted(stack: Stack, replica: ScriptedReplica, anthropic: ClientProgram) -> None:
    asked = {"model": "m", "system": "Be brief.", "messages": [{"role": "user", "content": "2 + 2"}]}
    counted = anthropic.run("count_tokens", api=stack.caller().anthropic, **asked)
    (seen,) = replica.seen
    assert counted == {"input_tokens": len(prompt_tokens(seen.request))}
    assert seen.path == "/tokenize"


def test_what_is_not_served_is_said_in_the_protocol(stack: Stack, anthropic: ClientProgram) -> None:
    with pytest.raises(ClientRaised, match="no model 'other'; there are: "):
        anthropic.run("model", api=stack.caller().anthropic, name="other")
