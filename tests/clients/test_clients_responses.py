"""OpenAI's Responses: its client and the Agents SDK, token-exact on the log."""

import json

import pytest
from client_checks import Json, agreed, extends, leaks
from client_programs import ClientProgram, ClientRaised, Programs
from client_stack import POLICY, Stack
from replica_script import Call, Turn, ids, logprob, pieces
from scripted_replica import ScriptedReplica

from leyden_schemas import CompletionStatus, Protocol

pytestmark = pytest.mark.kafka

QUESTION = "What is 3 * 4?"
CALCULATOR: Json = {
    "type": "function",
    "name": "calculator",
    "description": "Computes.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
TWO_CALLS = Turn(
    calls=(Call("calculator", '{"a":3,"b":4}', "call_1"), Call("calculator", '{"a":5,"b":6}', "call_2"))
)
TOOL_TURNS = (Turn(calls=(Call("multiply", '{"a":3,"b":4}'),)), Turn("It is 12."))


@pytest.fixture
def openai(program: Programs) -> ClientProgram:
    return program("use_openai")


@pytest.fixture
def agents(program: Programs) -> ClientProgram:
    return program("use_openai_agents")


@pytest.mark.parametrize("case", ["respond", "respond_async"])
def test_a_whole_response(stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str) -> None:
    caller = stack.caller(agent="solver")
    asked = {"model": "gpt-4o", "input": QUESTION, "instructions": "Be brief.", "temperature": 0.1}
    got = openai.run(case, api=caller.openai, **asked)
    turn = replica.turns[0]
    (record,) = agreed(stack, caller, replica, turn, protocol=Protocol.RESPONSES)
    assert got["headers"] == {
        "x-leyden-completion-id": str(record.completion_id),
        "x-leyden-model": f"{POLICY}@1",
        "x-leyden-sampling": "forced",
        "x-leyden-overridden": "temperature",
        "x-leyden-rollout-id": str(record.rollout_id),
    }
    (message,) = got["answer"]["output"]
    assert [part["text"] for part in message["content"]] == [turn.text]
    assert (got["answer"]["status"], got["answer"]["object"]) == ("completed", "response")
    assert got["answer"]["usage"]["output_tokens"] == len(turn.tokens())
    assert not leaks(got["answer"])
    assert (record.agent, record.request) == ("solver", asked)
    assert record.response == got["answer"]
    assert record.sampling.overridden == {"temperature": 0.1}
    roles = [(message["role"], message["content"]) for message in replica.seen[0].request["messages"]]
    assert roles == [("system", "Be brief."), ("user", QUESTION)]


def test_a_streamed_response(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    caller = stack.caller()
    got = openai.run("respond_stream", api=caller.openai, model="gpt-4o", input=QUESTION)
    turn, events = replica.turns[0], got["events"]
    (record,) = agreed(stack, caller, replica, turn, protocol=Protocol.RESPONSES)
    assert got["headers"]["x-leyden-completion-id"] == str(record.completion_id)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == pieces(turn.text)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == turn.text
    assert record.response == events[-1]["response"]
    assert not leaks(events)


@pytest.mark.parametrize("case", ["respond", "respond_stream_helper"])
def test_parallel_calls(stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str) -> None:
    replica.script(TWO_CALLS)
    caller = stack.caller()
    asked = {"model": "gpt-4o", "input": QUESTION, "tools": [CALCULATOR], "parallel_tool_calls": True}
    choice = {"type": "function", "name": "calculator"}
    got = openai.run(case, api=caller.openai, **asked, tool_choice=choice)
    (record,) = agreed(stack, caller, replica, TWO_CALLS, protocol=Protocol.RESPONSES)
    made = [(item["call_id"], item["name"], item["arguments"]) for item in got["answer"]["output"]]
    assert made == [(call.id, call.name, call.arguments) for call in TWO_CALLS.calls]
    seen = replica.seen[0].request
    assert seen["tools"][0]["function"]["strict"] is True
    assert seen["tool_choice"] == {"type": "function", "function": {"name": "calculator"}}
    assert seen["parallel_tool_calls"] is True
    assert (record.request["tools"], record.request["tool_choice"]) == ([CALCULATOR], choice)
    if case == "respond_stream_helper":
        assert "response.function_call_arguments.delta" in got["events"]


def test_structured_output(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    turn = Turn('{"a": 3, "b": 4, "total": 7}')
    replica.script(turn)
    caller, expected = stack.caller(), {"a": 3, "b": 4, "total": 7}
    asked = {"model": "gpt-4o", "input": QUESTION}
    assert openai.run("respond_parse", api=caller.openai, **asked) == expected
    got = openai.run("respond_stream_helper", api=caller.openai, structured=True, **asked)
    assert got["parsed"] == expected
    agreed(stack, caller, replica, turn, turn, protocol=Protocol.RESPONSES)
    for seen in replica.seen:
        wanted = seen.request["response_format"]
        assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)


def test_a_conversation_with_results_of_tools(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    turns = (TWO_CALLS, Turn("12 and 30."))
    replica.script(*turns)
    caller = stack.caller()
    told: list[Json] = [{"role": "user", "content": QUESTION}]
    first = openai.run("respond", api=caller.openai, model="m", input=told, tools=[CALCULATOR])
    told += first["answer"]["output"]
    told += [
        {"type": "function_call_output", "call_id": "call_1", "output": "12"},
        {"type": "function_call_output", "call_id": "call_2", "output": "30"},
    ]
    second = openai.run("respond", api=caller.openai, model="m", input=told, tools=[CALCULATOR])
    assert second["output_text"] == "12 and 30."
    one, two = agreed(stack, caller, replica, *turns, protocol=Protocol.RESPONSES)
    assert two.request["input"] == told
    assert extends(one, two)


@pytest.mark.parametrize("case", ["respond", "respond_stream_helper"])
def test_reasoning_goes_there_and_back(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str
) -> None:
    turn = Turn("12.", reasoning="Three times four.")
    replica.script(turn)
    caller = stack.caller()
    told: list[Json] = [{"role": "user", "content": QUESTION}]
    output = openai.run(case, api=caller.openai, model="m", input=told)["answer"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message"]
    assert output[0]["content"][0]["text"] == turn.reasoning
    again = [*told, *output, {"role": "user", "content": "Why?"}]
    openai.run("respond", api=caller.openai, model="m", input=again)
    agreed(stack, caller, replica, turn, turn, protocol=Protocol.RESPONSES)
    assert replica.seen[1].request["messages"][1]["reasoning"] == turn.reasoning


def test_images_pass(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    caller = stack.caller()
    openai.run("respond", api=caller.openai, model="m", input=[{"role": "user", "content": content}])
    (record,) = agreed(stack, caller, replica, replica.turns[0], protocol=Protocol.RESPONSES)
    assert record.request["input"][0]["content"] == content
    image = replica.seen[0].request["messages"][0]["content"][1]
    assert image == {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


@pytest.mark.parametrize("case", ["respond", "respond_stream_helper"])
def test_logprobs_arrive_when_they_are_asked_for(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str
) -> None:
    asked = {"model": "m", "input": QUESTION}
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    caller, turn = stack.caller(), replica.turns[0]
    plain = openai.run(case, api=caller.openai, **asked)
    assert not plain["answer"]["output"][0]["content"][0]["logprobs"]
    got = openai.run(case, api=caller.openai, **asked, **wanted)["answer"]["output"][0]["content"][0][
        "logprobs"
    ]
    assert [item["logprob"] for item in got] == [logprob(piece) for piece in pieces(turn.text)]
    assert len(got[0]["top_logprobs"]) == 2
    agreed(stack, caller, replica, turn, turn, protocol=Protocol.RESPONSES)


def test_an_answer_that_was_cut_off(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    turn = Turn("It is", finish_reason="length")
    replica.script(turn)
    caller, asked = stack.caller(), {"model": "m", "input": QUESTION, "max_output_tokens": 16}
    whole = openai.run("respond", api=caller.openai, **asked)["answer"]
    last = openai.run("respond_stream", api=caller.openai, **asked)["events"][-1]
    assert last["type"] == "response.incomplete"
    for answer in (whole, last["response"]):
        assert answer["status"] == "incomplete"
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
        assert answer["output"][0]["content"][0]["text"] == "It is"
    agreed(stack, caller, replica, turn, turn, protocol=Protocol.RESPONSES)


def test_what_needs_stored_responses_is_refused(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram
) -> None:
    caller = stack.caller()
    with pytest.raises(ClientRaised, match="not stored here") as caught:
        openai.run("respond", api=caller.openai, model="m", input="Go on.", previous_response_id="resp_1")
    assert "openai.BadRequestError" in caught.value.types
    record = stack.record(caller)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, "invalid_request")
    assert record.protocol is Protocol.RESPONSES
    assert not replica.seen


# The OpenAI Agents SDK


@pytest.mark.parametrize("case", ["run", "run_streamed"])
def test_an_agent_with_a_tool(
    stack: Stack, replica: ScriptedReplica, agents: ClientProgram, case: str
) -> None:
    replica.script(*TOOL_TURNS)
    caller = stack.caller()
    got = agents.run(case, api=caller.openai, text=QUESTION)
    assert got["output"] == "It is 12."
    assert got["items"] == ["tool_call_item", "tool_call_output_item", "message_output_item"]
    if case == "run_streamed":
        assert got["pieces"] == pieces("It is 12.")
    else:
        assert got["tokens"] == sum(len(turn.tokens()) for turn in TOOL_TURNS)
    first, second = agreed(stack, caller, replica, *TOOL_TURNS, protocol=Protocol.RESPONSES)
    assert extends(first, second)
    assert second.request["input"][: len(first.request["input"])] == first.request["input"]
    assert [item.get("type") for item in second.request["input"][1:]] == [
        "function_call",
        "function_call_output",
    ]
    assert replica.seen[0].request["tools"][0]["function"]["strict"] is True


def test_an_agent_calls_in_parallel(stack: Stack, replica: ScriptedReplica, agents: ClientProgram) -> None:
    calls = tuple(Call("multiply", f'{{"a":{n},"b":2}}', f"call_{n}") for n in (1, 2, 3))
    turns = (Turn(calls=calls), Turn("2, 4 and 6."))
    replica.script(*turns)
    caller = stack.caller()
    assert agents.run("run", api=caller.openai, text=QUESTION)["output"] == "2, 4 and 6."
    first, second = agreed(stack, caller, replica, *turns, protocol=Protocol.RESPONSES)
    assert extends(first, second)
    results = [m["content"] for m in replica.seen[1].request["messages"] if m["role"] == "tool"]
    assert results == ["2", "4", "6"]


def test_an_agent_with_a_structured_answer(
    stack: Stack, replica: ScriptedReplica, agents: ClientProgram
) -> None:
    turn = Turn('{"a":3,"b":4,"total":7}')
    replica.script(turn)
    caller = stack.caller()
    assert agents.run("run_structured", api=caller.openai, text=QUESTION) == json.loads(turn.text)
    agreed(stack, caller, replica, turn, protocol=Protocol.RESPONSES)


def test_a_second_run_goes_on_from_the_first(
    stack: Stack, replica: ScriptedReplica, agents: ClientProgram
) -> None:
    turns = (*TOOL_TURNS, Turn("You are welcome."))
    replica.script(*turns)
    caller = stack.caller()
    assert agents.run("run_twice", api=caller.openai, texts=[QUESTION, "Thanks."]) == "You are welcome."
    first, second, third = agreed(stack, caller, replica, *turns, protocol=Protocol.RESPONSES)
    assert extends(first, second)
    assert extends(second, third)


def test_agents_of_one_rollout_have_roles_of_their_own(
    stack: Stack, replica: ScriptedReplica, agents: ClientProgram
) -> None:
    turns = (Turn(calls=(Call("transfer_to_clerk", "{}"),)), Turn("Done."))
    replica.script(*turns)
    triage = stack.caller(agent="triage")
    apis = [triage.openai, triage.as_agent("clerk").openai]
    assert agents.run("run_handoff", apis=apis, text=QUESTION) == "clerk: Done."
    records = agreed(stack, triage, replica, *turns, protocol=Protocol.RESPONSES)
    assert [record.agent for record in records] == ["triage", "clerk"]


def test_an_agent_through_chat_completions(
    stack: Stack, replica: ScriptedReplica, agents: ClientProgram
) -> None:
    replica.script(*TOOL_TURNS)
    caller = stack.caller()
    assert agents.run("run_chat", api=caller.openai, text=QUESTION) == "It is 12."
    first, second = agreed(stack, caller, replica, *TOOL_TURNS)
    assert extends(first, second)
    assert ids(TOOL_TURNS[0].tokens()) == first.token_ids


def test_langchain_speaks_responses(stack: Stack, replica: ScriptedReplica, program: Programs) -> None:
    replica.script(*TOOL_TURNS)
    caller, langchain = stack.caller(), program("use_langchain")
    got = langchain.run("invoke_responses", api=caller.openai, text=QUESTION)
    assert got["tool_calls"] == [{"a": 3, "b": 4}]
    assert "".join(langchain.run("stream_responses", api=caller.openai, text=QUESTION)) == "It is 12."
    agreed(stack, caller, replica, *TOOL_TURNS, protocol=Protocol.RESPONSES)
