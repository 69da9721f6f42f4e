"""A Responses request becomes the chat request that a chat client would have sent, or a precise refusal."""

from typing import Any

import pytest

from leyden_platform.dialects import UnsupportedRequest
from leyden_platform.dialects.responses import to_chat
from leyden_schemas import JsonObject

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CLOCK = {"type": "function", "name": "clock", "parameters": None, "strict": None}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def chat(**fields: Any) -> JsonObject:
    return to_chat({"model": "policy", "input": "hi", **fields})


def messages(*items: JsonObject, **fields: Any) -> list[JsonObject]:
    found: list[JsonObject] = chat(input=list(items), **fields)["messages"]
    return found


def call(call_id: str, name: str = "weather", arguments: str = "{}") -> JsonObject:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def chat_call(call_id: str, name: str = "weather", arguments: str = "{}") -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(text: str) -> JsonObject:
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def output(call_id: str, text: Any) -> JsonObject:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def test_a_text() -> None:
    assert chat() == {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}


def test_instructions_lead() -> None:
    assert chat(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_the_parameters() -> None:
    sent = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "stop": ["x"],
        "chat_template_kwargs": {"enable_thinking": False},
        "something_new": None,
    }
    renamed = {"max_output_tokens": 64, "reasoning": {"effort": "low", "summary": "auto"}}
    dropped = {"store": True, "truncation": "auto", "max_tool_calls": 3, "include": [], "background": False}
    newer: JsonObject = {
        "access_programs": {},
        "background_options": {},
        "context_management": [{}],
        "image": {},
    }
    assert chat(**sent, **renamed, **dropped, **newer, previous_response_id=None) == {
        "model": "policy",
        "messages": [{"role": "user", "content": "hi"}],
        **sent,
        "max_completion_tokens": 64,
        "reasoning_effort": "low",
    }


def test_a_stream_always_brings_usage() -> None:
    assert chat(stream=True)["stream_options"] == {"include_usage": True}
    options = {"include_obfuscation": False, "continuous_usage_stats": True}
    assert chat(stream=True, stream_options=options)["stream_options"] == {
        "continuous_usage_stats": True,
        "include_usage": True,
    }
    assert "stream_options" not in chat(stream=False, stream_options=options)


def test_logprobs_only_when_included() -> None:
    assert "logprobs" not in chat(top_logprobs=2)
    included = chat(include=["message.output_text.logprobs"], top_logprobs=2)
    assert (included["logprobs"], included["top_logprobs"]) == (True, 2)
    assert "top_logprobs" not in chat(include=["message.output_text.logprobs"])


def test_tools() -> None:
    asked = chat(tools=[WEATHER, CLOCK], parallel_tool_calls=False)
    assert asked["tools"] == [
        {"type": "function", "function": {name: WEATHER[name] for name in WEATHER if name != "type"}},
        {"type": "function", "function": {"name": "clock"}},
    ]
    assert asked["parallel_tool_calls"] is False
    assert "tool_choice" not in asked


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "name": "clock"}, {"type": "function", "function": {"name": "clock"}}),
    ],
)
def test_tool_choice(choice: Any, expected: Any) -> None:
    assert chat(tools=[WEATHER, CLOCK], tool_choice=choice)["tool_choice"] == expected


def test_allowed_tools_are_the_only_ones_sent() -> None:
    allowed = [{"type": "function", "name": "clock"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    asked = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert asked["tools"] == [{"type": "function", "function": {"name": "clock"}}]
    assert asked["tool_choice"] == "required"


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_without_tools_nothing_is_said_of_them(choice: str | None) -> None:
    asked = chat(tools=[], tool_choice=choice, parallel_tool_calls=True)
    assert set(asked) == {"model", "messages"}


def test_structured_output() -> None:
    shape = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
    asked = chat(text={"format": shape, "verbosity": "low"})
    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert asked["verbosity"] == "low"
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat(text={"format": {"type": "text"}})
    assert "response_format" not in chat(text={"format": None})


def test_roles_and_messages_without_a_type() -> None:
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "assistant", "content": "hello"},
        {"type": "message", "role": "system", "content": "Now in French."},
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": "Now in French."},
    ]


def test_images_keep_their_place() -> None:
    content = [
        {"type": "input_text", "text": "Compare"},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "original"},
        {"type": "input_image", "image_url": "https://example.org/b.png"},
        {"type": "input_text", "text": "closely"},
    ]
    assert messages({"role": "user", "content": content})[0]["content"] == [
        {"type": "text", "text": "Compare"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/b.png"}},
        {"type": "text", "text": "closely"},
    ]


def test_audio() -> None:
    sound = {"data": "AA==", "format": "wav"}
    content = [{"type": "input_audio", "input_audio": sound}]
    assert messages({"role": "user", "content": content})[0]["content"] == content


def test_one_turn_of_several_items_is_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [reasoning_text("Both cities.")]}
    assert messages(
        {"role": "user", "content": "Weather?"},
        thought,
        said("Looking."),
        call("a", arguments='{"city": "Rome"}'),
        call("b", "clock"),
        output("a", "sunny"),
        output("b", [{"type": "input_text", "text": "noon"}]),
        said("Sunny, noon."),
    ) == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning": "Both cities.",
            "reasoning_content": "Both cities.",
            "tool_calls": [chat_call("a", arguments='{"city": "Rome"}'), chat_call("b", "clock")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
        {"role": "assistant", "content": "Sunny, noon."},
    ]


def reasoning_text(text: str) -> JsonObject:
    return {"type": "reasoning_text", "text": text}


def test_calls_alone_have_no_content() -> None:
    assert messages(call("a"), call("b")) == [
        {"role": "assistant", "content": None, "tool_calls": [chat_call("a"), chat_call("b")]}
    ]


def test_what_follows_an_open_call_is_of_its_turn() -> None:
    assert messages(said("One "), call("a"), said("two"), call("b"), output("a", "1"), call("c")) == [
        {"role": "assistant", "content": "One two", "tool_calls": [chat_call("a"), chat_call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "assistant", "content": None, "tool_calls": [chat_call("c")]},
    ]


def test_two_texts_in_a_row_are_two_turns() -> None:
    assert messages(said("One"), said("Two"), call("a")) == [
        {"role": "assistant", "content": "One"},
        {"role": "assistant", "content": "Two", "tool_calls": [chat_call("a")]},
    ]


def test_reasoning_that_cannot_be_read_is_left_out() -> None:
    hidden = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    assert messages(hidden, said("Yes")) == [{"role": "assistant", "content": "Yes"}]
    summary = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Easy."}]}
    assert messages(summary)[0] == {
        "role": "assistant",
        "content": "",
        "reasoning": "Easy.",
        "reasoning_content": "Easy.",
    }


def test_a_refusal_and_an_image_from_a_tool() -> None:
    refused = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert messages(refused) == [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    shot = [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]
    assert messages(output("a", shot))[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    ]


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": {"id": "c"}}, "conversation", "send the whole conversation"),
        ({"background": True}, "background", "leave out `background`"),
        ({"prompt": {"id": "p"}}, "prompt", "send `instructions` and `input`"),
        ({"messages": [USER]}, "messages", "/v1/chat/completions"),
        ({"n": 2}, "n", "make `n` requests"),
        ({"input": None}, "input", "a string or a list"),
        ({"input": {}}, "input", "a string or a list"),
        ({"input": []}, "input", "is empty"),
        ({"instructions": [USER]}, "instructions", "a string"),
        ({"input": [USER, 3]}, "input[1]", "an object"),
        ({"input": [{}]}, "input[0].type", "neither a type nor a role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "send the item itself"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "web_search_call"),
        ({"input": [{"type": ["message"]}]}, "input[0].type", "cannot be sent"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "function_call_output"),
        ({"input": [{"role": "user"}]}, "input[0].content", "a string or a list"),
        ({"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0].type", "send input_text"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
            "a string",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
            "data URL",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "a string",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0]",
            "send the text",
        ),
        ({"input": [USER, call("a"), {**output("a", "x"), "output": 3}]}, "input[2].output", "a string or"),
        ({"input": [{**output("a", "x"), "call_id": None}]}, "input[0].call_id", "missing or null"),
        ({"input": [{**call("a"), "arguments": {}}]}, "input[0].arguments", "a string"),
        ({"input": [{**call("a"), "name": 1}]}, "input[0].name", "a string"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary", "a list"),
        ({"tools": {}}, "tools", "a list"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "a string"),
        ({"tools": [{**CLOCK, "parameters": "{}"}]}, "tools[0].parameters", "an object"),
        (
            {"tools": [CLOCK, {"type": "web_search"}]},
            "tools[1].type",
            "which OpenAI's servers run themselves: give the agent a tool of type function",
        ),
        ({"tools": [{"type": "web_search_preview"}]}, "tools[0].type", "OpenAI's servers run themselves"),
        (
            {"tools": [{"type": "custom", "name": "code"}]},
            "tools[0].type",
            "which replicas do not know: give the agent a tool of type function",
        ),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type", "which replicas do not know"),
        ({"tools": [{"name": "x"}]}, "tools[0].type", "a string"),
        ({"tool_choice": "required"}, "tool_choice", "`tools` is empty"),
        ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice", "auto, none, required"),
        ({"tools": [CLOCK], "tool_choice": 1}, "tool_choice", "an object"),
        ({"tools": [CLOCK], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "'mcp'"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "name": "gone"}},
            "tool_choice.name",
            "'gone'",
        ),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
            "none of the tools",
        ),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "mode": "never", "tools": [CLOCK]}},
            "tool_choice.mode",
            "auto or required",
        ),
        ({"text": "json"}, "text", "an object"),
        (
            {"text": {"format": {"type": "grammar"}}},
            "text.format.type",
            "use text, json_object or json_schema",
        ),
        ({"text": {"format": {"schema": {}}}}, "text.format.type", "use text, json_object or json_schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "a string"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "an object"),
        ({"reasoning": "high"}, "reasoning", "an object"),
        ({"stream": True, "stream_options": 1}, "stream_options", "an object"),
    ],
)
def test_what_is_refused(fields: JsonObject, param: str, said: str) -> None:
    with pytest.raises(UnsupportedRequest) as refused:
        chat(**fields)
    assert refused.value.param == param
    assert said in refused.value.message
    assert str(refused.value) == refused.value.message
