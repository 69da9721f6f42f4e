"""Agent frameworks that speak chat completions, set up as their users would: another base URL and key."""

import json

import pytest
from client_checks import agreed
from client_programs import ClientProgram, Programs
from client_stack import POLICY, Stack
from replica_script import Call, Turn
from scripted_replica import ScriptedReplica

pytestmark = pytest.mark.kafka

QUESTION = "What is 3 * 4?"
TOOL_TURNS = (Turn(calls=(Call("multiply", '{"a":3,"b":4}'),)), Turn("It is 12."))
PARALLEL = Turn(
    calls=(Call("multiply", '{"a":3,"b":4}', "call_1"), Call("multiply", '{"a":5,"b":6}', "call_2"))
)


@pytest.fixture
def langchain(program: Programs) -> ClientProgram:
    return program("use_langchain")


@pytest.fixture
def autogen(program: Programs) -> ClientProgram:
    return program("use_autogen")


@pytest.fixture
def litellm(program: Programs) -> ClientProgram:
    return program("use_litellm")


@pytest.fixture
def dspy(program: Programs) -> ClientProgram:
    return program("use_dspy")


# LangChain and LangGraph


@pytest.mark.parametrize("case", ["invoke", "invoke_async"])
def test_langchain_invokes(
    stack: Stack, replica: ScriptedReplica, langchain: ClientProgram, case: str
) -> None:
    caller = stack.caller()
    got = langchain.run(case, api=caller.openai, text=QUESTION)
    turn = replica.turns[0]
    assert (got["content"], got["finish_reason"]) == (turn.text, "stop")
    assert got["usage"]["output_tokens"] == len(turn.tokens())
    agreed(stack, caller, replica, turn)


def test_langchain_streams(stack: Stack, replica: ScriptedReplica, langchain: ClientProgram) -> None:
    caller = stack.caller()
    got = langchain.run("stream", api=caller.openai, text=QUESTION, stream_usage=True)
    turn = replica.turns[0]
    assert (got["content"], "".join(got["pieces"])) == (turn.text, turn.text)
    assert got["usage"]["output_tokens"] == len(turn.tokens())
    assert len(got["pieces"]) > 3
    agreed(stack, caller, replica, turn)


def test_langchain_streams_without_usage(
    stack: Stack, replica: ScriptedReplica, langchain: ClientProgram
) -> None:
    caller = stack.caller()
    assert "".join(langchain.run("stream_async", api=caller.openai, text=QUESTION)) == replica.turns[0].text
    agreed(stack, caller, replica, replica.turns[0])


def test_langchain_batches(stack: Stack, replica: ScriptedReplica, langchain: ClientProgram) -> None:
    """Calls at the same time, two of them equal, are records of their own."""
    caller = stack.caller()
    got = langchain.run("batch", api=caller.openai, texts=["one", "two", "two"])
    assert [each["content"] for each in got] == [replica.turns[0].text] * 3
    records = stack.records(caller)
    assert sorted(record.request["messages"][0]["content"] for record in records) == ["one", "two", "two"]
    assert len({record.completion_id for record in records}) == 3


def test_langchain_binds_tools(stack: Stack, replica: ScriptedReplica, langchain: ClientProgram) -> None:
    replica.script(PARALLEL)
    caller = stack.caller()
    asked = {"strict": True, "tool_choice": "multiply", "parallel_tool_calls": True}
    got = langchain.run("bind_tools", api=caller.openai, text=QUESTION, **asked)
    assert [call["args"] for call in got["tool_calls"]] == [{"a": 3, "b": 4}, {"a": 5, "b": 6}]
    (record,) = agreed(stack, caller, replica, PARALLEL)
    assert record.request["tools"][0]["function"]["strict"] is True
    assert record.request["tool_choice"] == {"type": "function", "function": {"name": "multiply"}}
    assert record.request["parallel_tool_calls"] is True


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_langchain_structures_output(
    stack: Stack, replica: ScriptedReplica, langchain: ClientProgram, method: str
) -> None:
    arguments = '{"a": 3, "b": 4, "total": 7}'
    turn = Turn(calls=(Call("Sum", arguments),)) if method == "function_calling" else Turn(arguments)
    replica.script(turn)
    caller = stack.caller()
    got = langchain.run("structured", api=caller.openai, text=QUESTION, method=method)
    assert got == json.loads(arguments)
    (record,) = agreed(stack, caller, replica, turn)
    if method == "json_schema":
        assert record.request["response_format"]["json_schema"]["name"] == "Sum"


def test_a_langgraph_agent_with_a_tool(
    stack: Stack, replica: ScriptedReplica, langchain: ClientProgram
) -> None:
    replica.script(*TOOL_TURNS)
    caller = stack.caller(agent="mathematician")
    heard = langchain.run("graph", api=caller.openai, text=QUESTION)
    assert [message["type"] for message in heard] == ["human", "ai", "tool", "ai"]
    assert [message["content"] for message in heard[2:]] == ["12", "It is 12."]
    first, second = agreed(stack, caller, replica, *TOOL_TURNS)
    assert {record.agent for record in (first, second)} == {"mathematician"}
    assert second.request["messages"][-1]["role"] == "tool"


def test_a_langgraph_agent_that_streams(
    stack: Stack, replica: ScriptedReplica, langchain: ClientProgram
) -> None:
    """LangGraph streams messages with ``stream: true`` and without ``stream_options``."""
    replica.script(*TOOL_TURNS)
    caller = stack.caller()
    assert "".join(langchain.run("graph_stream", api=caller.openai, text=QUESTION)) == "It is 12."
    records = agreed(stack, caller, replica, *TOOL_TURNS)
    assert [record.streamed for record in records] == [True, True]


# AutoGen


def test_an_autogen_assistant_with_a_tool(
    stack: Stack, replica: ScriptedReplica, autogen: ClientProgram
) -> None:
    replica.script(*TOOL_TURNS)
    caller = stack.caller()
    messages = autogen.run("run", api=caller.openai, task=QUESTION)
    assert messages[-1]["text"] == "It is 12."
    first, _ = agreed(stack, caller, replica, *TOOL_TURNS)
    assert "strict" in first.request["tools"][0]["function"]


def test_an_autogen_assistant_calls_in_parallel(
    stack: Stack, replica: ScriptedReplica, autogen: ClientProgram
) -> None:
    replica.script(PARALLEL, Turn("12 and 30."))
    caller = stack.caller()
    assert autogen.run("run", api=caller.openai, task=QUESTION)[-1]["text"] == "12 and 30."
    _, second = agreed(stack, caller, replica, PARALLEL, Turn("12 and 30."))
    told = {m["tool_call_id"]: m["content"] for m in second.request["messages"] if m["role"] == "tool"}
    assert told == {"call_1": "12", "call_2": "30"}


def test_an_autogen_assistant_streams(stack: Stack, replica: ScriptedReplica, autogen: ClientProgram) -> None:
    replica.script(*TOOL_TURNS)
    caller = stack.caller()
    pieces = autogen.run("run_stream", api=caller.openai, task=QUESTION)
    assert "".join(pieces).endswith("It is 12.")
    assert len(pieces) > 3
    agreed(stack, caller, replica, *TOOL_TURNS)


# LiteLLM and DSPy


@pytest.mark.parametrize("case", ["complete", "complete_async"])
def test_litellm_completes(stack: Stack, replica: ScriptedReplica, litellm: ClientProgram, case: str) -> None:
    replica.script(PARALLEL)
    caller = stack.caller()
    messages = [{"role": "user", "content": QUESTION}]
    got = litellm.run(case, api=caller.openai, messages=messages, stop=["\n"], seed=3)
    made = got["choices"][0]["message"]["tool_calls"]
    assert [call["id"] for call in made] == ["call_1", "call_2"]
    (record,) = agreed(stack, caller, replica, PARALLEL)
    assert (record.request["stop"], record.request["seed"]) == (["\n"], 3)


@pytest.mark.parametrize("case", ["stream", "stream_async"])
def test_litellm_streams(stack: Stack, replica: ScriptedReplica, litellm: ClientProgram, case: str) -> None:
    caller = stack.caller()
    messages = [{"role": "user", "content": QUESTION}]
    chunks = litellm.run(case, api=caller.openai, messages=messages)
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == replica.turns[0].text
    agreed(stack, caller, replica, replica.turns[0])


DSPY_ANSWER = Turn("[[ ## answer ## ]]\nIt is twelve, or 12.\n\n[[ ## completed ## ]]")


@pytest.mark.parametrize("case", ["predict", "predict_async"])
def test_dspy_predicts(stack: Stack, replica: ScriptedReplica, dspy: ClientProgram, case: str) -> None:
    replica.script(DSPY_ANSWER)
    caller = stack.caller()
    assert dspy.run(case, api=caller.openai, question=QUESTION) == "It is twelve, or 12."
    agreed(stack, caller, replica, DSPY_ANSWER)


def test_dspy_streams(stack: Stack, replica: ScriptedReplica, dspy: ClientProgram) -> None:
    replica.script(DSPY_ANSWER)
    caller = stack.caller()
    pieces = dspy.run("predict_stream", api=caller.openai, question=QUESTION)
    assert "".join(pieces).strip() == "It is twelve, or 12."
    (record,) = agreed(stack, caller, replica, DSPY_ANSWER)
    assert record.streamed


def test_dspy_asks_again_for_what_it_cannot_parse(
    stack: Stack, replica: ScriptedReplica, dspy: ClientProgram
) -> None:
    """Its second try, with a ``response_format``, is a completion of its own."""
    turns = (Turn("Twelve."), Turn('{"answer": "12"}'))
    replica.script(*turns)
    caller = stack.caller()
    assert dspy.run("predict", api=caller.openai, question=QUESTION) == "12"
    _, second = agreed(stack, caller, replica, *turns)
    assert "response_format" in second.request
    assert second.model == f"{POLICY}@1"
