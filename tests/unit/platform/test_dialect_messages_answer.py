"""What a chat completion becomes as a Message, and that one sent back is the chat message it came from."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.dialects.messages import RAW_ARGUMENTS, SIGNATURE, from_chat, to_chat
from leyden_schemas import JsonObject

REQUEST = {"model": "calculator", "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}


def answer(said: JsonObject, finish: Any = "stop", **choice: Any) -> JsonObject:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "calculator@3",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None, **said},
                "finish_reason": finish,
                **choice,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
    }


def call(call_id: str, name: str, arguments: str) -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def message(chat: JsonObject) -> JsonObject:
    return from_chat(chat, REQUEST, message_id="msg_1")


def test_a_text() -> None:
    assert message(answer({"content": "hi"})) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "calculator@3",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 4},
    }


def test_thinking_text_and_parallel_calls_in_that_order() -> None:
    calls = [call("a", "add", '{"x": 1}'), call("b", "now", "")]
    said = {"content": "Both.", "reasoning_content": "hm", "tool_calls": calls}
    got = message(answer(said, "tool_calls"))
    assert got["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": SIGNATURE},
        {"type": "text", "text": "Both."},
        {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "now", "input": {}},
    ]
    assert got["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")]
)
def test_reasoning_has_two_names(names: tuple[str, ...]) -> None:
    got = message(answer({"content": "12", **dict.fromkeys(names, "7 + 5")}))
    assert got["content"][0] == {"type": "thinking", "thinking": "7 + 5", "signature": SIGNATURE}
    assert len(got["content"]) == 2


CALLED = {"tool_calls": [call("a", "now", "{}")]}


@pytest.mark.parametrize(
    ("chat", "stop"),
    [
        (answer({"content": "hi"}, "stop"), ("end_turn", None)),
        (answer({"content": "hi"}, "stop", stop_reason=None), ("end_turn", None)),
        (answer({"content": "hi"}, "stop", stop_reason=151645), ("end_turn", None)),
        (answer({"content": "hi"}, "stop", stop_reason="END"), ("stop_sequence", "END")),
        (
            answer({"tool_calls": [call("a", "f", '{"x": 1}')]}, "tool_calls", stop_reason="END"),
            ("tool_use", None),
        ),
        (
            answer({"tool_calls": [call("a", "f", '{"x": ')]}, "tool_calls", stop_reason="END"),
            ("stop_sequence", "END"),
        ),
        (answer({"tool_calls": [call("a", "f", '{"x": ')]}, "tool_calls"), ("tool_use", None)),
        (answer({"content": "hi"}, "length"), ("max_tokens", None)),
        (answer(CALLED, "length"), ("max_tokens", None)),
        (answer(CALLED, "tool_calls"), ("tool_use", None)),
        (answer(CALLED, "stop"), ("tool_use", None)),
        (answer({"content": ""}, "content_filter"), ("refusal", None)),
        (answer({"refusal": "I won't."}, "stop"), ("refusal", None)),
        (answer({"content": "hi"}, None), ("end_turn", None)),
    ],
)
def test_why_it_stopped(chat: JsonObject, stop: tuple[str, str | None]) -> None:
    got = message(chat)
    assert (got["stop_reason"], got["stop_sequence"]) == stop


def test_a_refusal_is_text() -> None:
    got = message(answer({"refusal": "I won't."}))
    assert got["content"] == [{"type": "text", "text": "I won't."}]


@pytest.mark.parametrize("said", [{}, {"content": ""}, {"content": None, "tool_calls": []}])
def test_an_empty_answer_has_no_content(said: JsonObject) -> None:
    assert message(answer(said))["content"] == []


DEEP = '{"a": ' + "[" * 100 + "]" * 100 + "}"


@pytest.mark.parametrize(
    ("arguments", "given_input"),
    [
        ('{"x": {"y": [1, null]}}', {"x": {"y": [1, None]}}),
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ('{"big": 18446744073709551615, "e": 1.5e3}', {"big": 18446744073709551615, "e": 1500.0}),
        ('{"emoji": "\\ud83d\\ude00"}', {"emoji": "😀"}),
        *[
            (raw, {RAW_ARGUMENTS: raw})
            for raw in (
                '{"x": 1',
                "[1, 2]",
                '"x"',
                "null",
                "x=1",
                '{"x": 1} done',
                '{"x": NaN}',
                '{"x": -Infinity}',
                '{"x": 1e999}',
                '{"x": 18446744073709551616}',
                '{"x": ' + "9" * 5000 + "}",
                '{"half": "\\ud83d"}',
                DEEP,
                "[" * 100_000,
            )
        ],
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_arguments(arguments: str, given_input: JsonObject) -> None:
    got = message(answer({"tool_calls": [call("a", "add", arguments)]}))
    assert got["content"][0]["input"] == given_input


def test_deep_arguments_that_can_be_sent() -> None:
    written = '{"a": ' + "[" * 99 + "]" * 99 + "}"
    got = message(answer({"tool_calls": [call("a", "add", written)]}))
    assert got["content"][0]["input"] == json.loads(written)
    brackets = json.dumps({"note": "[" * 500})
    got = message(answer({"tool_calls": [call("a", "add", brackets)]}))
    assert got["content"][0]["input"] == {"note": "[" * 500}


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4}, {"input_tokens": 10, "output_tokens": 4}),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
            {"input_tokens": 2, "output_tokens": 4, "cache_read_input_tokens": 8},
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}},
            {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 0},
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": None},
            {"input_tokens": 10, "output_tokens": 4},
        ),
        (None, {"input_tokens": 0, "output_tokens": 0}),
        ({"prompt_tokens": None, "completion_tokens": "4"}, {"input_tokens": 0, "output_tokens": 0}),
    ],
)
def test_usage(usage: Any, counted: JsonObject) -> None:
    assert message(answer({"content": "hi"}) | {"usage": usage})["usage"] == counted


def test_what_a_server_left_out() -> None:
    calls = [{"function": {"name": "now"}}, {"id": "b"}, "call"]
    got = from_chat({"choices": [{"message": {"tool_calls": calls}}]}, REQUEST, message_id="msg_1")
    assert got["model"] == "calculator"
    assert got["content"] == [
        {"type": "tool_use", "id": "toolu_0_msg_1", "name": "now", "input": {}},
        {"type": "tool_use", "id": "b", "name": "", "input": {}},
    ]


def test_the_first_alternative_is_the_one_with_index_0() -> None:
    two = answer({"content": "zero"})
    two["choices"].insert(0, {"index": 1, "message": {"content": "one"}})
    assert message(two)["content"] == [{"type": "text", "text": "zero"}]


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
OBJECTS = st.dictionaries(
    st.text(max_size=8), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)), max_size=3
)
CALLS = st.builds(
    call, st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), OBJECTS.map(json.dumps)
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text(max_size=20),
        "reasoning_content": st.text(max_size=20),
        "tool_calls": st.lists(CALLS, max_size=3),
    },
)


@given(SAID)
def test_a_message_sent_back_is_the_chat_message_it_was(said: JsonObject) -> None:
    got = message(answer(said))
    history = [*REQUEST["messages"], {"role": "assistant", "content": got["content"]}]  # type: ignore[misc]
    back = to_chat(REQUEST | {"messages": history})["messages"][-1]
    assert (back["content"] or "") == said.get("content", "")
    assert back.get("reasoning_content", "") == said.get("reasoning_content", "")
    assert back.get("reasoning", "") == said.get("reasoning_content", "")
    assert [parsed(item) for item in back.get("tool_calls", [])] == [
        parsed(item) for item in said.get("tool_calls", [])
    ]


def parsed(tool_call: JsonObject) -> JsonObject:
    function = tool_call["function"]
    return tool_call | {"function": function | {"arguments": json.loads(function["arguments"])}}


def test_arguments_that_are_no_object_survive_another_turn() -> None:
    got = message(answer({"tool_calls": [call("a", "add", '{"x": ')]}))
    history = [{"role": "user", "content": "go"}, {"role": "assistant", "content": got["content"]}]
    back = to_chat(REQUEST | {"messages": history})["messages"][-1]
    assert json.loads(back["tool_calls"][0]["function"]["arguments"]) == {RAW_ARGUMENTS: '{"x": '}


JSON = st.recursive(
    SCALARS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ANY_CALL = st.fixed_dictionaries(
    {},
    optional={
        "index": JSON,
        "id": JSON,
        "function": st.fixed_dictionaries({}, optional={"name": JSON, "arguments": JSON | st.just("{]")})
        | JSON,
    },
)
ANY_SAID = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "refusal": JSON,
        "reasoning": JSON,
        "tool_calls": st.lists(ANY_CALL | JSON, max_size=3) | JSON,
    },
)
ANY_CHOICE = st.fixed_dictionaries(
    {}, optional={"index": JSON, "message": ANY_SAID | JSON, "finish_reason": JSON, "stop_reason": JSON}
)
ANY_ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "model": JSON,
        "choices": st.lists(ANY_CHOICE | JSON, max_size=2) | JSON,
        "usage": st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "prompt_tokens_details": JSON})
        | JSON,
    },
)


@given(ANY_ANSWER)
def test_any_answer_gives_a_message(chat: JsonObject) -> None:
    got = from_chat(chat, {}, message_id="msg_1")
    assert isinstance(got["content"], list)
    json.dumps(got, ensure_ascii=False).encode()
