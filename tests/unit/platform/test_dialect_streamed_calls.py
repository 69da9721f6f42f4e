"""Pieces of streamed tool calls find their call, and every reader of a stream puts them together alike."""

from typing import Any

import pytest

from leyden_gateway.exchange.capture import merge_delta
from leyden_gateway.exchange.fields import of
from leyden_platform.dialects.messages import MessagesStream
from leyden_platform.dialects.responses import ResponsesStream
from leyden_platform.dialects.streamed_calls import call_index
from leyden_schemas import JsonObject


def piece(arguments: str = "", *, name: str | None = None, **fields: Any) -> JsonObject:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"type": "function", "function": function, **fields}


@pytest.mark.parametrize(
    ("given", "known", "index"),
    [
        (piece(index=3), {}, 3),
        (piece(index=0, id="new"), {0: "a", 1: "b"}, 0),
        (piece(), {}, 0),
        (piece(), {0: "a", 1: "b"}, 1),
        (piece(), {4: None}, 4),
        (piece(id="b"), {0: "a"}, 1),
        (piece(id="a"), {0: "a", 1: "b"}, 0),
        (piece(id="a", name="f"), {0: "a"}, 0),
        (piece(name="f"), {0: "a"}, 1),
        (piece(id="c"), {0: "a", 7: "b"}, 8),
        (piece(index=True), {0: "a", 1: "b"}, 1),
        (piece(index="0"), {0: "a", 1: "b"}, 1),
        ({}, {0: "a"}, 0),
    ],
)
def test_the_call_of_a_piece(given: JsonObject, known: dict[int, str | None], index: int) -> None:
    assert call_index(given, known) == index


STREAMS: dict[str, list[list[JsonObject]]] = {
    "indexed": [
        [piece(index=0, id="a", name="f")],
        [piece('{"x":', index=0)],
        [piece("1}", index=0)],
        [piece("{}", index=1, id="b", name="g")],
    ],
    "none has an index": [
        [piece(id="a", name="f")],
        [piece('{"x":')],
        [piece("1}")],
        [piece(id="b", name="g")],
        [piece("{}")],
    ],
    "the first alone has one": [
        [piece(index=0, id="a", name="f")],
        [piece('{"x":')],
        [piece("1}")],
        [piece("{}", index=1, id="b", name="g")],
    ],
    "the id comes with every piece": [
        [piece(id="a", name="f")],
        [piece('{"x":', id="a")],
        [piece("1}", id="a")],
        [piece(id="b", name="g")],
        [piece("{}", id="b")],
    ],
    "both in one chunk, without an index": [
        [piece('{"x":1}', id="a", name="f"), piece("{}", id="b", name="g")],
    ],
}


@pytest.mark.parametrize("how", STREAMS)
def test_every_reader_puts_the_same_calls_together(how: str) -> None:
    captured: JsonObject = {}
    responses = ResponsesStream({"input": "hi"}, response_id="resp_1", created_at=0)
    messages = MessagesStream({"messages": []}, message_id="msg_1")
    for calls in STREAMS[how]:
        merge_delta(captured, of({"tool_calls": calls}))
        chunk = {"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}
        responses.chunk(chunk)
        messages.chunk(chunk)
    responses.end()
    messages.end()
    expected = [("a", "f", '{"x":1}'), ("b", "g", "{}")]
    assert [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in captured["tool_calls"]
    ] == expected
    assert [
        (item["call_id"], item["name"], item["arguments"]) for item in responses.response()["output"]
    ] == expected
    assert [(block["id"], block["name"], block["input"]) for block in messages.message()["content"]] == [
        ("a", "f", {"x": 1}),
        ("b", "g", {}),
    ]
