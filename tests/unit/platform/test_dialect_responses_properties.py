"""Whatever is sent: a conversation survives the way through Responses and back; nothing else is raised."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from leyden_platform.dialects import UnsupportedRequest
from leyden_platform.dialects.responses import ResponsesStream, from_chat, to_chat
from leyden_schemas import JsonObject

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUEST: JsonObject = {"model": "policy", "input": "hi", "include": ["message.output_text.logprobs"]}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CALLS = st.lists(st.tuples(TEXTS.filter(bool), TEXTS), max_size=3)
"""Name and arguments of each call."""
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | TEXTS
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def message_of(reasoning: str, content: str, calls: list[tuple[str, str]]) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": content or (None if calls else "")}
    if reasoning:
        message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for index, (name, arguments) in enumerate(calls)
        ]
    return message


def answer_of(message: JsonObject) -> JsonObject:
    return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def response_to(message: JsonObject) -> JsonObject:
    return from_chat(answer_of(message), REQUEST, response_id="resp_1", created_at=1)


@given(TEXTS, TEXTS, CALLS)
def test_the_next_turn_has_what_the_model_said(
    reasoning: str, content: str, calls: list[tuple[str, str]]
) -> None:
    message = message_of(reasoning, content, calls)
    output = response_to(message)["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "done"}
        for item in output
        if item["type"] == "function_call"
    ]
    user = {"role": "user", "content": "hi"}
    assert to_chat({**REQUEST, "input": [user, *output, *results, user]})["messages"] == [
        user,
        message,
        *(
            {"role": "tool", "tool_call_id": f"call_{index}", "content": "done"}
            for index in range(len(calls))
        ),
        user,
    ]


@given(TEXTS, TEXTS, CALLS, st.data())
def test_a_stream_tells_the_same_however_it_is_cut(
    reasoning: str, content: str, calls: list[tuple[str, str]], data: st.DataObject
) -> None:
    message = message_of(reasoning, content, calls)
    deltas = [*cut(data, "reasoning", reasoning), *cut(data, "content", content)]
    pieces = []
    for index, (name, arguments) in enumerate(calls):
        first = {"index": index, "id": f"call_{index}", "function": {"name": name}}
        deltas.append({"tool_calls": [first]})
        pieces += [
            {"tool_calls": [{"index": index, "function": piece}]}
            for piece in cut(data, "arguments", arguments)
        ]
    stream = new_stream()
    events = []
    for delta in [*deltas, *pieces]:
        events += stream.chunk({"model": "m", "choices": [{"index": 0, "delta": delta}]})
    events += stream.end()
    assert stream.response() == events[-1]["response"] == response_to(message)
    for field, kind in (("content", "output_text"), ("reasoning", "reasoning_text")):
        told = [event["delta"] for event in events if event["type"] == f"response.{kind}.delta"]
        assert "".join(told) == (message.get(field) or "")


def cut(data: st.DataObject, field: str, text: str) -> list[JsonObject]:
    """The text in two pieces, as deltas of one field."""
    at = data.draw(st.integers(0, len(text)))
    return [{field: text[:at]}, {field: text[at:]}]


PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "input_image", "refusal"])},
    optional=dict.fromkeys(("text", "image_url", "detail", "refusal"), JSON),
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | JSON},
    optional={
        "role": st.sampled_from(["user", "assistant"]) | JSON,
        **dict.fromkeys(("call_id", "name", "arguments"), TEXTS | JSON),
        **dict.fromkeys(("content", "output", "summary"), st.lists(PARTS, max_size=2) | JSON),
    },
)
TOOLS = st.fixed_dictionaries(
    {"type": st.just("function") | JSON},
    optional={"name": st.sampled_from("ab") | JSON, "parameters": JSON},
)
CHOICE = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "allowed_tools"]) | JSON},
    optional={"name": st.sampled_from("ab") | JSON, "mode": JSON, "tools": st.lists(TOOLS) | JSON},
)
FIELDS = ("instructions", "text", "reasoning", "include", "stream", "stream_options", "n", "top_logprobs")
REQUESTS = st.fixed_dictionaries(
    {"input": st.lists(ITEMS, max_size=3) | TEXTS | JSON},
    optional={
        **dict.fromkeys(FIELDS, JSON),
        "tools": st.lists(TOOLS, max_size=2) | JSON,
        "tool_choice": CHOICE | JSON,
    },
)


@given(REQUESTS)
def test_a_request_is_translated_or_refused(request: JsonObject) -> None:
    param: str | None = None
    messages: list[JsonObject] = []
    try:
        messages = to_chat(request)["messages"]
    except UnsupportedRequest as refused:
        param = refused.param
    assert bool(param) != bool(messages)
    assert all(isinstance(message["role"], str) for message in messages)


CALL_PIECES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("index", "id"), JSON),
        "function": st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "arguments"), JSON)) | JSON,
    },
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("role", "content", "reasoning", "reasoning_content", "refusal"), JSON),
        "tool_calls": st.lists(CALL_PIECES, max_size=3) | JSON,
    },
)
LOGPROB = st.fixed_dictionaries(
    {"token": TEXTS | JSON, "logprob": st.floats(max_value=0) | JSON},
    optional=dict.fromkeys(("bytes", "top_logprobs"), JSON),
)
CHOICES = st.fixed_dictionaries(
    {"index": st.just(0) | JSON},
    optional={
        **dict.fromkeys(("delta", "message"), DELTAS | JSON),
        "finish_reason": st.sampled_from(["stop", "length"]) | JSON,
        "logprobs": st.fixed_dictionaries({"content": st.lists(LOGPROB, max_size=2) | JSON}) | JSON,
    },
)
ANSWERS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=2) | JSON},
    optional={"model": JSON, "usage": JSON | st.dictionaries(st.just("prompt_tokens"), JSON)},
)


def new_stream() -> ResponsesStream:
    return ResponsesStream(REQUEST, response_id="resp_1", created_at=1)


@settings(max_examples=50)
@given(st.lists(ANSWERS, max_size=4), JSON)
def test_odd_chunks_give_a_well_formed_stream(chunks: list[JsonObject], error: Any) -> None:
    stream = new_stream()
    sent = [event for chunk in chunks for event in stream.chunk(chunk)]
    ended = sent + stream.end()
    assert well_formed(ended) == set()
    well_formed(sent + stream.failed({"error": error}))


def well_formed(events: list[JsonObject]) -> set[int]:
    """The items that these events leave open; each event fits the package's types and comes in its turn."""
    unfinished: set[int] = set()
    for number, event in enumerate(events):
        EVENT.validate_python(event)
        assert event["sequence_number"] == number
        index: Any = event.get("output_index")
        if event["type"] == "response.output_item.added":
            unfinished.add(index)
        assert index is None or index in unfinished
        if event["type"] == "response.output_item.done":
            unfinished.remove(index)
    return unfinished


@settings(max_examples=50)
@given(ANSWERS)
def test_odd_answers_give_a_response(answer: JsonObject) -> None:
    Response.model_validate(from_chat(answer, REQUEST, response_id="resp_1", created_at=1))
