"""What a Messages request becomes as a chat completion, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden_platform.dialects import UnsupportedRequest
from leyden_platform.dialects.messages import to_chat
from leyden_schemas import JsonObject

HELLO = [{"role": "user", "content": "hello"}]
PIXEL = "iVBORw0KGgo="
BASE64 = {"type": "base64", "media_type": "image/png", "data": PIXEL}


def request(**fields: Any) -> JsonObject:
    return {"model": "calculator", "max_tokens": 64, "messages": HELLO, **fields}


def turns(*messages: JsonObject) -> list[JsonObject]:
    chat = to_chat(request(messages=list(messages)))
    messages_sent: list[JsonObject] = chat["messages"]
    return messages_sent


def text(written: str, **fields: Any) -> JsonObject:
    return {"type": "text", "text": written, **fields}


def use(use_id: str, name: str, **given: Any) -> JsonObject:
    return {"type": "tool_use", "id": use_id, "name": name, "input": given}


def result(use_id: str, **fields: Any) -> JsonObject:
    return {"type": "tool_result", "tool_use_id": use_id, **fields}


def test_the_smallest_request() -> None:
    assert to_chat(request()) == {"model": "calculator", "max_tokens": 64, "messages": HELLO}


def test_the_request_stays_as_it_was() -> None:
    asked = request(system=[text("be brief")], stop_sequences=["END"], chat_template_kwargs={"a": 1})
    before = json.dumps(asked)
    to_chat(asked | {"thinking": {"type": "enabled", "budget_tokens": 1024}, "stream": True})
    assert json.dumps(asked) == before


@pytest.mark.parametrize(
    ("system", "content"),
    [
        ("be brief", "be brief"),
        ([text("be brief", cache_control={"type": "ephemeral"})], "be brief"),
        ([text("be brief"), text(""), text("be kind")], "be brief\nbe kind"),
        ([text("x-anthropic-billing-header: cc_version=2; cch=1f;"), text("be brief")], "be brief"),
    ],
)
def test_a_system_prompt(system: Any, content: str) -> None:
    assert to_chat(request(system=system))["messages"] == [{"role": "system", "content": content}, *HELLO]


@pytest.mark.parametrize("system", [None, "", []])
def test_no_system_prompt(system: Any) -> None:
    assert to_chat(request(system=system))["messages"] == HELLO


def test_a_system_message_stays_in_its_place() -> None:
    late = {"role": "system", "content": [text("hurry")]}
    assert turns(*HELLO, late) == [*HELLO, {"role": "system", "content": "hurry"}]


def test_text_blocks_of_a_user_are_lines() -> None:
    blocks = [text("one", cache_control={"type": "ephemeral"}), text("two")]
    assert turns({"role": "user", "content": blocks}) == [{"role": "user", "content": "one\ntwo"}]


def test_text_blocks_of_the_assistant_are_one_text() -> None:
    said = {"role": "assistant", "content": [text("12 is "), text("a dozen")]}
    assert turns(*HELLO, said, *HELLO)[1] == {"role": "assistant", "content": "12 is a dozen"}


def test_turns_of_one_role_in_a_row_are_one_turn() -> None:
    asked: list[JsonObject] = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [text("two")]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"role": "assistant", "content": "12 is "},
        {"role": "assistant", "content": [text("a dozen"), use("a", "add", x=1)]},
        {"role": "assistant", "content": [use("b", "add", x=2)]},
        {"role": "user", "content": [result("a", content="1"), text("three")]},
        {"role": "user", "content": [result("b", content="2")]},
        {"role": "user", "content": "four"},
    ]
    first, said, *rest = turns(*asked)
    assert first == {"role": "user", "content": "one\ntwo"}
    assert (said["content"], said["reasoning"]) == ("12 is a dozen", "hm")
    assert [call["id"] for call in said["tool_calls"]] == ["a", "b"]
    assert rest == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "three\nfour"},
    ]


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "12 eggs"},
                "title": "The box",
                "context": "From the shop",
                "citations": {"enabled": True},
            },
            "The box\nFrom the shop\n12 eggs",
        ),
        ({"type": "document", "source": {"type": "content", "content": "12 eggs"}, "title": None}, "12 eggs"),
        (
            {
                "type": "document",
                "source": {"type": "content", "content": [text("see"), {"type": "image", "source": BASE64}]},
            },
            [text("see"), IMAGE],
        ),
        (
            {
                "type": "search_result",
                "title": "Eggs",
                "source": "https://example.org",
                "content": [text("12"), text("a box")],
            },
            "Eggs\nhttps://example.org\n12\na box",
        ),
    ],
)
def test_documents_of_text(block: JsonObject, content: Any) -> None:
    assert turns({"role": "user", "content": [block]}) == [{"role": "user", "content": content}]
    assert turns({"role": "user", "content": [result("a", content=[block])]}) == [
        {"role": "tool", "tool_call_id": "a", "content": content}
    ]


def test_images() -> None:
    content = [
        text("what are these?"),
        {"type": "image", "source": BASE64, "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ]
    assert turns({"role": "user", "content": content}) == [
        {
            "role": "user",
            "content": [
                text("what are these?"),
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        }
    ]


def test_parallel_calls_and_their_results() -> None:
    calls = [text("I'll add both."), use("a", "add", x=1, y=2), use("b", "sagen", wort="größer")]
    results = [
        text("and then?"),
        result("a", content="3"),
        result("b", content=[text("l1"), text("l2")]),
    ]
    assert turns(*HELLO, {"role": "assistant", "content": calls}, {"role": "user", "content": results}) == [
        *HELLO,
        {
            "role": "assistant",
            "content": "I'll add both.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1, "y": 2}'}},
                {
                    "id": "b",
                    "type": "function",
                    "function": {"name": "sagen", "arguments": '{"wort": "größer"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "tool", "tool_call_id": "b", "content": "l1\nl2"},
        {"role": "user", "content": "and then?"},
    ]


def test_calls_alone_have_no_content() -> None:
    said = turns(*HELLO, {"role": "assistant", "content": [use("a", "now")]})[1]
    assert said["content"] is None
    assert said["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({}, ""),
        ({"content": None}, ""),
        ({"content": []}, ""),
        ({"content": "3", "is_error": False}, "3"),
        ({"content": "no such file", "is_error": True}, "Error: no such file"),
        ({"content": "ERROR 7", "is_error": True}, "ERROR 7"),
        ({"content": [text("no"), text("way")], "is_error": True}, "Error: no\nway"),
        ({"content": "", "is_error": True}, "Error"),
        ({"is_error": True}, "Error"),
    ],
)
def test_a_tool_result(fields: JsonObject, content: str) -> None:
    assert turns({"role": "user", "content": [result("a", **fields)]}) == [
        {"role": "tool", "tool_call_id": "a", "content": content}
    ]


def test_a_tool_result_with_an_image() -> None:
    shown = [text("the screen"), {"type": "image", "source": BASE64}]
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    assert turns({"role": "user", "content": [result("a", content=shown)]}) == [
        {"role": "tool", "tool_call_id": "a", "content": [text("the screen"), image]}
    ]


def test_thinking_goes_back_under_both_names() -> None:
    said = [
        {"type": "thinking", "thinking": "7 + 5", "signature": "s"},
        {"type": "redacted_thinking", "data": "zzz"},
        text("12"),
    ]
    assert turns(*HELLO, {"role": "assistant", "content": said}, *HELLO)[1] == {
        "role": "assistant",
        "content": "12",
        "reasoning_content": "7 + 5",
        "reasoning": "7 + 5",
    }


def test_a_last_turn_of_the_assistant_is_continued() -> None:
    chat = to_chat(request(messages=[*HELLO, {"role": "assistant", "content": "The answer is"}]))
    assert chat["continue_final_message"] is True
    assert chat["add_generation_prompt"] is False


@pytest.mark.parametrize("content", ["", [use("a", "now")], [text("wait"), use("a", "now")]])
def test_a_last_turn_that_cannot_be_continued(content: Any) -> None:
    assert "continue_final_message" not in to_chat(
        request(messages=[*HELLO, {"role": "assistant", "content": content}])
    )


def test_tools() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tools = [
        {
            "name": "double",
            "description": "Twice x",
            "input_schema": schema,
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "custom", "name": "halve", "input_schema": schema, "strict": True},
    ]
    assert to_chat(request(tools=tools))["tools"] == [
        {
            "type": "function",
            "function": {"name": "double", "description": "Twice x", "parameters": schema},
        },
        {"type": "function", "function": {"name": "halve", "parameters": schema, "strict": True}},
    ]


@pytest.mark.parametrize(
    ("choice", "chat"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "double"},
            {"tool_choice": {"type": "function", "function": {"name": "double"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            {"tool_choice": "required", "parallel_tool_calls": True},
        ),
    ],
)
def test_tool_choice(choice: JsonObject, chat: JsonObject) -> None:
    tools = {"tools": [{"name": "double", "input_schema": {}}]}
    assert to_chat(request(tool_choice=choice, **tools)) == to_chat(request(**tools)) | chat


@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_without_tools(tools: list[JsonObject] | None) -> None:
    for kind in ("auto", "none"):
        choice = {"type": kind, "disable_parallel_tool_use": True}
        assert to_chat(request(tool_choice=choice, tools=tools)) == request(), "servers refuse one then"
    with pytest.raises(UnsupportedRequest, match="tools is empty"):
        to_chat(request(tool_choice={"type": "any"}, tools=tools))


@pytest.mark.parametrize(
    ("asked", "chat"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 40}, {"temperature": 0.5, "top_p": 0.9, "top_k": 40}),
        ({"stop_sequences": ["END", "\n\n"]}, {"stop": ["END", "\n\n"]}),
        ({"stop_sequences": []}, {}),
        ({"metadata": {"user_id": "u-7"}}, {"user": "u-7"}),
        ({"metadata": {}}, {}),
        ({"stream": False}, {"stream": False}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            {"stream": True, "stream_options": {"continuous_usage_stats": True, "include_usage": True}},
        ),
        ({"seed": 3, "min_p": 0.1, "x_mine": {"a": [1]}}, {"seed": 3, "min_p": 0.1, "x_mine": {"a": [1]}}),
        ({"cache_control": {"type": "ephemeral"}, "service_tier": "auto"}, {}),
        ({"billing_policy": {}, "fallbacks": "default", "fallback_credit_token": "t"}, {}),
        ({"mcp_servers": [], "container": None, "compaction": None}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        ({"tools": [], "tool_choice": None, "thinking": None, "metadata": None}, {}),
    ],
)
def test_parameters(asked: JsonObject, chat: JsonObject) -> None:
    assert to_chat(request(**asked)) == request() | chat


ON, OFF = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}


@pytest.mark.parametrize(
    ("asked", "chat"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"chat_template_kwargs": ON}),
        ({"thinking": {"type": "disabled"}}, {"chat_template_kwargs": OFF}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "between_tools"}}, {}),
        (
            {"thinking": {"type": "enabled"}, "chat_template_kwargs": {"thinking": False, "tone": "dry"}},
            {"chat_template_kwargs": {"enable_thinking": True, "thinking": False, "tone": "dry"}},
        ),
    ],
)
def test_thinking(asked: JsonObject, chat: JsonObject) -> None:
    assert to_chat(request(**asked)) == request() | chat


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_structured_output(place: str) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    wanted = {"type": "json_schema", "schema": schema}
    asked = {"output_config": {"format": wanted}} if place == "output_config" else {"output_format": wanted}
    assert to_chat(request(**asked))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


def user(*blocks: Any) -> list[JsonObject]:
    return [*HELLO, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": list(blocks)}]


def assistant(*blocks: Any) -> list[JsonObject]:
    return [*HELLO, {"role": "assistant", "content": list(blocks)}]


NESTED: dict[str, Any] = {}
for _ in range(100_000):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "64"}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [*HELLO, "hello"]}, "messages[1]"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "3"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": user("hello")}, "messages[2].content[0]"),
        ({"messages": user({"type": "text"})}, "messages[2].content[0].text"),
        ({"messages": user({"text": "hello"})}, "messages[2].content[0].type"),
        ({"messages": user(text("see"), {"type": "container_upload"})}, "messages[2].content[1].type"),
        (
            {"messages": user(text("see"), {"type": "document", "source": BASE64})},
            "messages[2].content[1].source",
        ),
        (
            {"messages": user({"type": "document", "source": {"type": "content", "content": [NESTED]}})},
            "messages[2].content[0].source.content[0].type",
        ),
        ({"messages": user({"type": "search_result"})}, "messages[2].content[0].content"),
        (
            {"messages": [*HELLO, {"role": "user", "content": "see"}, {"role": "user", "content": 7}]},
            "messages[2].content",
        ),
        ({"messages": user(use("a", "add"))}, "messages[2].content[0].type"),
        ({"messages": user({"type": "image"})}, "messages[2].content[0].source"),
        (
            {"messages": user({"type": "image", "source": {"type": "base64", "data": 7}})},
            "messages[2].content[0].source",
        ),
        (
            {"messages": user({"type": "image", "source": {"type": "file", "file_id": "f"}})},
            "messages[2].content[0].source",
        ),
        ({"messages": user({"type": "tool_result"})}, "messages[2].content[0].tool_use_id"),
        ({"messages": user(result("a", content=7))}, "messages[2].content[0].content"),
        (
            {"messages": user(result("a", content=[text("see"), {"type": "tool_reference"}]))},
            "messages[2].content[0].content[1].type",
        ),
        ({"messages": assistant(result("a", content="3"))}, "messages[1].content[0].type"),
        ({"messages": assistant({"type": "image", "source": BASE64})}, "messages[1].content[0].type"),
        ({"messages": assistant({"type": "server_tool_use"})}, "messages[1].content[0].type"),
        ({"messages": assistant({"type": "thinking"})}, "messages[1].content[0].thinking"),
        ({"messages": assistant(use("a", "add") | {"input": "{}"})}, "messages[1].content[0].input"),
        ({"messages": assistant(use("a", "add") | {"input": NESTED})}, "messages[1].content[0].input"),
        ({"messages": assistant(use("a", "add") | {"id": None})}, "messages[1].content[0].id"),
        ({"messages": assistant(use("a", "add") | {"name": 7})}, "messages[1].content[0].name"),
        ({"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "m"}]}, "mcp_servers"),
        ({"container": "container_1"}, "container"),
        ({"compaction": {"type": "compaction"}}, "compaction"),
        ({"n": 2}, "n"),
        ({"system": 7}, "system"),
        ({"system": [{"type": "image", "source": BASE64}]}, "system[0].type"),
        ({"system": [{"type": "text"}]}, "system[0].text"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": ["END", 7]}, "stop_sequences"),
        ({"metadata": "u-7"}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"tools": {}}, "tools"),
        ({"tools": [7]}, "tools[0]"),
        ({"tools": [{"name": "add"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "add", "description": 7, "input_schema": {}}]}, "tools[0].description"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "always"}}, "thinking.type"),
        ({"output_config": []}, "output_config"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
        ({"output_format": {"type": "json_schema"}}, "output_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(fields: JsonObject, param: str) -> None:
    with pytest.raises(UnsupportedRequest) as refused:
        to_chat(request(**fields))
    assert refused.value.param == param
    assert param.removesuffix(".type") in refused.value.message


def test_max_tokens_is_required() -> None:
    with pytest.raises(UnsupportedRequest, match="max_tokens is required") as refused:
        to_chat({"model": "calculator", "messages": HELLO})
    assert refused.value.param == "max_tokens"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(
    ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "document", "base64", "url"]
)
BLOCKS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | JSON,
            "text": st.text(max_size=5) | JSON,
            "thinking": st.text(max_size=5) | JSON,
            "id": st.text(max_size=5) | JSON,
            "tool_use_id": st.text(max_size=5) | JSON,
            "name": st.text(max_size=5) | JSON,
            "input": JSON,
            "is_error": JSON,
            "source": st.fixed_dictionaries(
                {}, optional={"type": TYPES, "media_type": JSON, "data": JSON, "url": JSON}
            )
            | JSON,
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": TYPES, "tool_use_id": st.just("a"), "content": st.lists(inner, max_size=3) | JSON}
    ),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
        "content": st.text(max_size=5) | st.lists(BLOCKS, max_size=3) | JSON,
    },
)
OBJECTS = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["auto", "tool", "enabled", "json_schema", "custom"]) | JSON}
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.just(64) | JSON,
        "messages": st.lists(MESSAGES, max_size=3) | JSON,
        "system": st.lists(BLOCKS, max_size=2) | JSON,
        "tools": st.lists(OBJECTS | JSON, max_size=2) | JSON,
        "tool_choice": OBJECTS | JSON,
        "thinking": OBJECTS | JSON,
        "output_config": st.fixed_dictionaries({}, optional={"format": OBJECTS | JSON, "effort": JSON})
        | JSON,
        "metadata": JSON,
        "stop_sequences": JSON,
        "stream": JSON,
        "stream_options": JSON,
        "chat_template_kwargs": JSON,
    },
)


@given(REQUESTS)
@example({})
def test_any_request_is_translated_or_refused(asked: JsonObject) -> None:
    try:
        chat = to_chat(asked)
    except UnsupportedRequest:
        return
    json.dumps(chat)
    assert {message["role"] for message in chat["messages"]} <= {"system", "user", "assistant", "tool"}
    assert all("content" in message for message in chat["messages"])
