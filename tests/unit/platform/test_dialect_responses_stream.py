"""Chat chunks become Responses events, ends last, and the openai client puts them together again."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from leyden_platform.dialects.responses import ResponsesStream, from_chat
from leyden_schemas import JsonObject

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUEST = {"model": "policy", "input": "hi", "stream": True}
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


def chunk(finish_reason: str | None = None, *, logprobs: Any = None, **delta: Any) -> JsonObject:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
    return {"id": "c", "object": "chat.completion.chunk", "model": "policy@3", "choices": [choice]}


def usage() -> JsonObject:
    return {"id": "c", "object": "chat.completion.chunk", "model": "policy@3", "choices": [], "usage": USAGE}


def piece(index: int, arguments: str, call_id: str | None = None) -> JsonObject:
    """A piece of a tool call, the first if it has an id."""
    if call_id is None:
        return {"index": index, "function": {"arguments": arguments}}
    return {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": "f", "arguments": arguments},
    }


def start(**request: Any) -> ResponsesStream:
    return ResponsesStream({**REQUEST, **request}, response_id="resp_77", created_at=1700000000)


def events_of(stream: ResponsesStream, chunks: Iterable[JsonObject]) -> list[JsonObject]:
    """All events, each accepted by the package's types and numbered without a gap."""
    events = [event for item in chunks for event in stream.chunk(item)] + stream.end()
    check(events)
    return events


def check(events: list[JsonObject]) -> None:
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def types(events: list[JsonObject]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


TEXT = [
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo"),
    chunk("stop", content=""),
    usage(),
]
CALLS = [
    chunk(role="assistant", content=None),
    chunk(reasoning="Two "),
    chunk(reasoning_content="clocks."),
    chunk(content="Looking."),
    chunk(tool_calls=[piece(0, "", "call_a"), piece(1, '{"b"', "call_b")]),
    chunk(tool_calls=[piece(0, '{"a": 1}')]),
    chunk(tool_calls=[piece(1, ": 2}")]),
    chunk("tool_calls"),
    usage(),
]
CALLS_MESSAGE = {
    "role": "assistant",
    "reasoning": "Two clocks.",
    "content": "Looking.",
    "tool_calls": [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "call_b", "type": "function", "function": {"name": "f", "arguments": '{"b": 2}'}},
    ],
}


def whole(message: JsonObject, finish_reason: str) -> JsonObject:
    answer = {
        "model": "policy@3",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": USAGE,
    }
    return from_chat(answer, REQUEST, response_id="resp_77", created_at=1700000000)


def test_a_text() -> None:
    stream = start()
    assert types(stream.chunk(TEXT[0])) == ["created", "in_progress"]
    assert types(stream.chunk(TEXT[1])) == ["output_item.added", "content_part.added", "output_text.delta"]
    (delta,) = stream.chunk(TEXT[2])
    assert delta == {
        "type": "response.output_text.delta",
        "sequence_number": 5,
        "item_id": "msg_77_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "lo",
        "logprobs": [],
    }
    assert stream.chunk(TEXT[3]) == stream.chunk(TEXT[4]) == []
    end = stream.end()
    assert types(end) == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert end[0]["text"] == end[1]["part"]["text"] == "Hello"
    assert end[2]["item"] == end[3]["response"]["output"][0]
    assert end[3]["response"] == whole({"role": "assistant", "content": "Hello"}, "stop")


def test_calls_are_done_only_at_the_end() -> None:
    stream = start()
    flowing = [types(stream.chunk(item)) for item in CALLS]
    assert flowing == [
        ["created", "in_progress"],
        ["output_item.added", "content_part.added", "reasoning_text.delta"],
        ["reasoning_text.delta"],
        [
            *("reasoning_text.done", "content_part.done", "output_item.done"),
            *("output_item.added", "content_part.added", "output_text.delta"),
        ],
        [
            *("output_text.done", "content_part.done", "output_item.done"),
            *("output_item.added", "output_item.added", "function_call_arguments.delta"),
        ],
        ["function_call_arguments.delta"],
        ["function_call_arguments.delta"],
        [],
        [],
    ]
    end = stream.end()
    done = ["function_call_arguments.done", "output_item.done"]
    assert types(end) == [*done, *done, "completed"]
    assert [event["arguments"] for event in end if "arguments" in event] == ['{"a": 1}', '{"b": 2}']
    assert end[-1]["response"] == whole(CALLS_MESSAGE, "tool_calls")


def test_events_fit_the_types_of_the_package() -> None:
    refused = [chunk(content="I "), chunk(refusal="can"), chunk(refusal="not."), chunk("stop")]
    for chunks in (TEXT, CALLS, refused):
        events_of(start(), chunks)


def test_a_refusal_is_a_part_of_its_own() -> None:
    events = events_of(start(), [chunk(content="I "), chunk(refusal="can"), chunk(refusal="not.")])
    (item,) = events[-1]["response"]["output"]
    assert item["content"] == [
        {"type": "output_text", "text": "I ", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "cannot."},
    ]
    assert [event["content_index"] for event in events if "delta" in event] == [0, 1, 1]


def test_a_text_that_goes_on_after_a_call_is_a_second_message() -> None:
    chunks = [chunk(content="a"), chunk(tool_calls=[piece(0, "{}", "x")]), chunk(content="b"), chunk("stop")]
    output = events_of(start(), chunks)[-1]["response"]["output"]
    assert [item["id"] for item in output] == ["msg_77_0", "fc_77_1", "msg_77_2"]
    assert {item["status"] for item in output} == {"completed"}


def test_a_cut_off_answer_is_incomplete() -> None:
    end = events_of(start(), [chunk(content="Hel"), chunk("length"), usage()])[-2:]
    assert types(end) == ["output_item.done", "incomplete"]
    assert end[0]["item"]["status"] == "incomplete"
    assert end[1]["response"] == whole({"role": "assistant", "content": "Hel"}, "length")


@pytest.mark.parametrize("chunks", [[], [chunk("stop")]])
def test_an_answer_of_nothing(chunks: list[JsonObject]) -> None:
    events = events_of(start(), chunks)
    assert types(events)[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == ""


def test_the_response_so_far() -> None:
    stream = start()
    assert stream.response()["output"] == []
    for item in CALLS[:5]:
        stream.chunk(item)
    found = stream.response()
    Response.model_validate(found)
    assert (found["status"], found["usage"], found["model"]) == ("in_progress", None, "policy@3")
    assert [item["status"] for item in found["output"]] == ["completed"] * 2 + ["in_progress"] * 2
    assert found["output"][3]["arguments"] == '{"b"'
    stream.end()
    assert stream.response()["status"] == "completed"


def logprob(token: str, value: float) -> JsonObject:
    return {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}


def test_logprobs_wait_for_their_text() -> None:
    halves = [logprob("�", -0.5), logprob("�", -0.25)]
    chunks = [
        chunk(reasoning="hm", logprobs={"content": [logprob("hm", -3.0)]}),
        chunk(content="", logprobs={"content": [halves[0]]}),
        chunk(content="é", logprobs={"content": [halves[1]]}),
        chunk("stop", content="", logprobs={"content": [logprob("<end>", -0.1)]}),
    ]
    asked = events_of(start(include=["message.output_text.logprobs"]), chunks)
    assert [event["logprobs"] for event in asked if "logprobs" in event] == [halves, halves]
    assert asked[-1]["response"]["output"][1]["content"][0]["logprobs"] == halves
    told = [event["logprobs"] for event in events_of(start(), chunks) if "logprobs" in event]
    assert told == [[], []]


@pytest.mark.parametrize("ended", [False, True])
def test_a_stream_that_broke(ended: bool) -> None:
    """Whether or not the closing events were made already: they were not sent, so they leave no gap."""
    stream = start()
    events = [event for item in CALLS[:6] for event in stream.chunk(item)]
    if ended:
        stream.end()
    events += stream.failed({"error": {"message": "No record", "type": "server_error", "code": "stopped"}})
    check(events)
    assert events[-2] == {
        "type": "error",
        "sequence_number": len(events) - 2,
        "code": "stopped",
        "message": "No record",
        "param": None,
    }
    found = events[-1]["response"]
    assert events[-1]["type"] == "response.failed"
    assert found == stream.response()
    assert found["error"]["code"] == "server_error"
    assert [item["status"] for item in found["output"]] == ["completed"] * 2 + ["incomplete"] * 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limit_exceeded", "slow down"),
        ({"error": {"message": "bad", "type": "BadRequestError", "code": 400}}, "BadRequestError", "bad"),
        ({}, None, "the answer broke off"),
    ],
)
def test_a_stream_that_broke_before_its_first_chunk(
    error: JsonObject, code: str | None, message: str
) -> None:
    events = start().failed(error)
    check(events)
    assert types(events) == ["created", "in_progress", "error", "failed"]
    assert (events[2]["code"], events[2]["message"]) == (code, message)


def client(events: list[JsonObject]) -> openai.OpenAI:
    """The openai client, on a server that streams these events."""
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=body)

    http: Any = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=http)


def _without_parsed(value: Any) -> Any:
    """What the server said, without what the client added to it."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in ("parsed", "parsed_arguments")}
        return {name: _without_parsed(item) for name, item in kept.items()}
    return [_without_parsed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("chunks", "message", "finish_reason"),
    [(TEXT, {"role": "assistant", "content": "Hello"}, "stop"), (CALLS, CALLS_MESSAGE, "tool_calls")],
)
def test_the_client_puts_it_together(
    chunks: list[JsonObject], message: JsonObject, finish_reason: str
) -> None:
    events = events_of(start(), chunks)
    with client(events).responses.stream(model="policy", input="hi") as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_response()
    assert seen == [event["type"] for event in events]
    assert _without_parsed(final.to_dict()) == whole(message, finish_reason)


def test_the_client_accumulates_text_and_arguments() -> None:
    snapshots: dict[str, str] = {}
    with client(events_of(start(), CALLS)).responses.stream(model="policy", input="hi") as stream:
        for event in stream:
            if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
                snapshots[event.item_id] = event.snapshot
    assert snapshots == {"msg_77_1": "Looking.", "fc_77_2": '{"a": 1}', "fc_77_3": '{"b": 2}'}


def test_the_client_parses_structured_output() -> None:
    chunks = [chunk(content='{"n": '), chunk(content="4}"), chunk("stop")]
    with client(events_of(start(), chunks)).responses.stream(model="policy", input="hi") as stream:
        assert json.loads(stream.get_final_response().output_text) == {"n": 4}


def test_the_client_sees_a_failure() -> None:
    started = start()
    events = started.chunk(TEXT[1]) + started.failed({"message": "gone", "code": "truncated_stream"})
    seen = list(client(events).responses.create(model="policy", input="hi", stream=True))
    assert [event.type for event in seen[-2:]] == ["error", "response.failed"]
