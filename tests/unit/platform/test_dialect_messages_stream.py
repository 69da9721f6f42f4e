"""The events of a streamed Message: their order, what waits for the end, and that they tell the whole."""

import json
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.dialects.messages import RAW_ARGUMENTS, SIGNATURE, MessagesStream, from_chat
from leyden_schemas import JsonObject

REQUEST = {"model": "calculator", "max_tokens": 64, "messages": [{"role": "user", "content": "hello"}]}


def stream() -> MessagesStream:
    return MessagesStream(REQUEST, message_id="msg_1")


def chunk(delta: JsonObject | None = None, finish: str | None = None, **choice: Any) -> JsonObject:
    one = {"index": 0, "delta": delta or {}, "finish_reason": finish, **choice}
    return {"id": "c1", "model": "calculator@3", "choices": [one]}


def usage(prompt: int, completion: int, **fields: Any) -> JsonObject:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, **fields}
    return {"id": "c1", "model": "calculator@3", "choices": [], "usage": counted}


def part(index: int, arguments: str = "", **first: str) -> JsonObject:
    """A part of a call; the first has ``id`` and ``name``."""
    function: JsonObject = {"arguments": arguments}
    if not first:
        return {"tool_calls": [{"index": index, "function": function}]}
    return {
        "tool_calls": [{"index": index, "id": first["id"], "function": function | {"name": first["name"]}}]
    }


def start(index: int, block: JsonObject) -> JsonObject:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: str) -> JsonObject:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def stop(index: int) -> JsonObject:
    return {"type": "content_block_stop", "index": index}


def ending(reason: str, sequence: str | None = None, **counted: int) -> list[JsonObject]:
    told = {"input_tokens": 0, "output_tokens": 0, **counted}
    stopped = {"stop_reason": reason, "stop_sequence": sequence}
    return [{"type": "message_delta", "delta": stopped, "usage": told}, {"type": "message_stop"}]


START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "calculator@3",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    },
}
TEXT = {"type": "text", "text": ""}


def test_text_flows_and_its_end_waits() -> None:
    events = stream()
    assert events.chunk(chunk({"role": "assistant", "content": ""})) == [START]
    assert events.chunk(chunk({"content": "h"})) == [start(0, TEXT), delta(0, "text_delta", text="h")]
    assert events.chunk(chunk({"content": "i"})) == [delta(0, "text_delta", text="i")]
    assert events.chunk(chunk(finish="stop")) == []
    assert events.chunk(usage(10, 4)) == []
    assert events.message() == START["message"] | {  # type: ignore[operator]
        "content": [{"type": "text", "text": "hi"}],
        "usage": {"input_tokens": 10, "output_tokens": 4},
    }
    assert events.end() == [stop(0), *ending("end_turn", input_tokens=10, output_tokens=4)]
    assert events.message()["stop_reason"] == "end_turn"


def test_the_last_piece_may_come_with_the_finish() -> None:
    events = stream()
    assert events.chunk(chunk({"content": "hi"}, "length")) == [
        START,
        start(0, TEXT),
        delta(0, "text_delta", text="hi"),
    ]
    assert events.end() == [stop(0), *ending("max_tokens")]


def test_usage_that_is_known_from_the_start() -> None:
    details = {"cached_tokens": 8}
    first = chunk({"content": "hi"}) | {"usage": usage(10, 1, prompt_tokens_details=details)["usage"]}
    began = stream().chunk(first)[0]
    assert began["message"]["usage"] == {
        "input_tokens": 2,
        "output_tokens": 0,
        "cache_read_input_tokens": 8,
    }


def test_thinking_is_signed_before_it_ends() -> None:
    events = stream()
    block = {"type": "thinking", "thinking": "", "signature": ""}
    assert events.chunk(chunk({"reasoning": "7"})) == [
        START,
        start(0, block),
        delta(0, "thinking_delta", thinking="7"),
    ]
    assert events.message()["content"] == [{"type": "thinking", "thinking": "7", "signature": ""}]
    assert events.chunk(chunk({"reasoning_content": "+5", "content": "12"})) == [
        delta(0, "thinking_delta", thinking="+5"),
        delta(0, "signature_delta", signature=SIGNATURE),
        stop(0),
        start(1, TEXT),
        delta(1, "text_delta", text="12"),
    ]
    assert events.end() == [stop(1), *ending("end_turn")]


def test_thinking_cut_short() -> None:
    events = stream()
    events.chunk(chunk({"reasoning": "7"}, "length"))
    signed = delta(0, "signature_delta", signature=SIGNATURE)
    assert events.end() == [signed, stop(0), *ending("max_tokens")]


def test_calls_one_after_the_other_flow() -> None:
    events = stream()
    events.chunk(chunk({"content": "Both."}))
    add = {"type": "tool_use", "id": "a", "name": "add", "input": {}}
    now = {"type": "tool_use", "id": "b", "name": "now", "input": {}}
    assert events.chunk(chunk(part(0, id="a", name="add"))) == [stop(0), start(1, add)]
    assert events.chunk(chunk(part(0, '{"x"'))) == [delta(1, "input_json_delta", partial_json='{"x"')]
    assert events.message()["content"][1]["input"] == {RAW_ARGUMENTS: '{"x"'}
    assert events.chunk(chunk(part(0, ": 1}"))) == [delta(1, "input_json_delta", partial_json=": 1}")]
    assert events.chunk(chunk(part(1, "{}", id="b", name="now"))) == [
        stop(1),
        start(2, now),
        delta(2, "input_json_delta", partial_json="{}"),
    ]
    assert events.chunk(chunk(finish="tool_calls")) == []
    assert events.end() == [stop(2), *ending("tool_use")]
    assert events.message()["content"] == [
        {"type": "text", "text": "Both."},
        add | {"input": {"x": 1}},
        now,
    ]


def test_calls_at_once_wait_for_each_other() -> None:
    events = stream()
    both = part(0, "{", id="a", name="add")["tool_calls"] + part(1, "{", id="b", name="sub")["tool_calls"]
    add = {"type": "tool_use", "id": "a", "name": "add", "input": {}}
    sub = {"type": "tool_use", "id": "b", "name": "sub", "input": {}}
    assert events.chunk(chunk({"tool_calls": both})) == [
        START,
        start(0, add),
        delta(0, "input_json_delta", partial_json="{"),
    ]
    assert events.chunk(chunk(part(1, '"y": 2'))) == []
    assert events.message()["content"] == [add | {"input": {RAW_ARGUMENTS: "{"}}]
    assert events.chunk(chunk(part(0, '"x": 1}'))) == [
        delta(0, "input_json_delta", partial_json='"x": 1}'),
        stop(0),
        start(1, sub),
        delta(1, "input_json_delta", partial_json='{"y": 2'),
    ]
    assert events.chunk(chunk(part(1, "}"))) == [delta(1, "input_json_delta", partial_json="}")]
    assert events.end() == [stop(1), *ending("tool_use")]


def test_what_waits_for_a_call_that_never_completes_comes_at_the_end() -> None:
    events = stream()
    events.chunk(chunk(part(0, '{"x', id="a", name="add")))
    sub = {"type": "tool_use", "id": "b", "name": "sub", "input": {}}
    assert events.chunk(chunk(part(1, "{}", id="b", name="sub"))) == []
    assert events.end() == [
        stop(0),
        start(1, sub),
        delta(1, "input_json_delta", partial_json="{}"),
        stop(1),
        *ending("tool_use"),
    ]


def test_a_call_begins_when_its_name_is_known() -> None:
    events = stream()
    nameless = {"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": ""}}]}
    assert events.chunk(chunk(nameless)) == [START]
    named = {"tool_calls": [{"index": 0, "function": {"name": "now", "arguments": "{}"}}]}
    assert events.chunk(chunk(named)) == [
        start(0, {"type": "tool_use", "id": "a", "name": "now", "input": {}}),
        delta(0, "input_json_delta", partial_json="{}"),
    ]


def test_text_after_a_call_is_another_block() -> None:
    events = stream()
    events.chunk(chunk({"content": "a"}))
    events.chunk(chunk(part(0, "{}", id="a", name="now")))
    assert events.chunk(chunk({"content": "b"})) == [
        stop(1),
        start(2, TEXT),
        delta(2, "text_delta", text="b"),
    ]


def test_a_call_that_a_stop_sequence_cut_is_not_to_be_run() -> None:
    events = stream()
    events.chunk(chunk(part(0, '{"x": ', id="a", name="f")))
    events.chunk(chunk(finish="tool_calls", stop_reason="END"))
    assert events.end() == [stop(0), *ending("stop_sequence", "END")]


def test_a_stop_sequence() -> None:
    events = stream()
    events.chunk(chunk({"content": "hi"}))
    events.chunk(chunk(finish="stop", stop_reason="END"))
    assert events.end() == [stop(0), *ending("stop_sequence", "END")]


def test_a_refusal() -> None:
    events = stream()
    events.chunk(chunk({"refusal": "I won't."}))
    assert events.end() == [stop(0), *ending("refusal")]
    assert events.message()["content"] == [{"type": "text", "text": "I won't."}]


def test_an_empty_stream_is_an_empty_message() -> None:
    events = stream()
    asked_for = START["message"] | {"model": "calculator"}  # type: ignore[operator]
    assert events.message() == asked_for
    assert events.end() == [{"type": "message_start", "message": asked_for}, *ending("end_turn")]


def test_other_alternatives_are_not_shown() -> None:
    events = stream()
    assert events.chunk({"model": "calculator@3", "choices": [{"index": 1, "delta": {"content": "x"}}]}) == [
        START
    ]


def read(events: list[JsonObject]) -> JsonObject:
    """What a strict client makes of the events: one block at a time, nothing after the end."""
    first, *rest = events
    assert first["type"] == "message_start"
    message: JsonObject = json.loads(json.dumps(first["message"]))
    assert rest[-1] == {"type": "message_stop"}
    written: dict[int, str] = {}
    open_block: int | None = None
    for event in rest[:-1]:
        match event["type"]:
            case "content_block_start":
                assert open_block is None
                assert event["index"] == len(message["content"])
                open_block = event["index"]
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                assert open_block is not None
                assert event["index"] == open_block
                block, piece = message["content"][open_block], event["delta"]
                match piece["type"]:
                    case "text_delta":
                        block["text"] += piece["text"]
                    case "thinking_delta":
                        block["thinking"] += piece["thinking"]
                    case "signature_delta":
                        block["signature"] += piece["signature"]
                    case "input_json_delta":
                        written[open_block] = written.get(open_block, "") + piece["partial_json"]
            case "content_block_stop":
                assert event["index"] == open_block
                if open_block in written:
                    message["content"][open_block]["input"] = json.loads(written[open_block])
                open_block = None
            case "message_delta":
                assert open_block is None
                message |= event["delta"] | {"usage": event["usage"]}
            case other:
                raise AssertionError(f"unknown event {other}")
    return message


@st.composite
def pieces(draw: st.DrawFn, whole: str) -> list[str]:
    """``whole``, cut anywhere; some pieces may be empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


VALUES = st.integers(-(2**63), 2**64 - 1) | st.text(max_size=6)
ARGUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3).map(json.dumps)


@st.composite
def completions(draw: st.DrawFn) -> tuple[JsonObject, list[JsonObject]]:
    """A whole answer and the chunks that say the same; parts of calls come in any order."""
    thought, written = draw(st.text(max_size=12)), draw(st.text(max_size=12))
    calls = draw(st.lists(ARGUMENTS, max_size=3))
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    matched = draw(st.sampled_from([None, 7, "END"]))
    counted = {"prompt_tokens": draw(st.integers(0, 99)), "completion_tokens": draw(st.integers(0, 99))}
    name: Literal["reasoning", "reasoning_content"] = draw(
        st.sampled_from(["reasoning", "reasoning_content"])
    )
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({name: piece}) for piece in draw(pieces(thought))]
    chunks += [chunk({"content": piece}) for piece in draw(pieces(written))]
    chunks += [chunk(part(index, id=f"c{index}", name=f"f{index}")) for index in range(len(calls))]
    parts = [[(index, piece) for piece in draw(pieces(whole))] for index, whole in enumerate(calls)]
    if draw(st.booleans()):
        order = draw(st.permutations([index for index, those in enumerate(parts) for _ in those]))
        ordered = [parts[index].pop(0) for index in order]
    else:
        ordered = [piece for those in parts for piece in those]
    chunks += [chunk(part(index, piece)) for index, piece in ordered]
    chunks.append(chunk(None, finish, stop_reason=matched))
    chunks.append({"model": "calculator@3", "choices": [], "usage": counted})
    said: JsonObject = {"role": "assistant", "content": written, name: thought}
    said["tool_calls"] = [
        {"id": f"c{index}", "type": "function", "function": {"name": f"f{index}", "arguments": arguments}}
        for index, arguments in enumerate(calls)
    ]
    choice = {"index": 0, "message": said, "finish_reason": finish, "stop_reason": matched}
    return {"model": "calculator@3", "choices": [choice], "usage": counted}, chunks


@given(completions())
def test_a_stream_tells_what_the_whole_would(completion: tuple[JsonObject, list[JsonObject]]) -> None:
    whole, chunks = completion
    events = stream()
    flowing = [event for each in chunks for event in events.chunk(each)]
    final = events.end()
    expected = from_chat(whole, REQUEST, message_id="msg_1")
    assert read(flowing + final) == expected
    assert events.message() == expected
    assert not {"message_delta", "message_stop"} & {event["type"] for event in flowing}
    last = {"type": "content_block_stop", "index": len(expected["content"]) - 1}
    assert last not in flowing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ANY_CALL = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(0, 1) | JSON,
        "id": JSON,
        "function": st.fixed_dictionaries({}, optional={"name": JSON, "arguments": JSON | st.just("{}")})
        | JSON,
    },
)
ANY_DELTA = st.fixed_dictionaries(
    {},
    optional={
        "content": JSON,
        "reasoning": JSON,
        "refusal": JSON,
        "tool_calls": st.lists(ANY_CALL | JSON, max_size=2) | JSON,
    },
)
ANY_CHOICE = st.fixed_dictionaries(
    {}, optional={"index": JSON, "delta": ANY_DELTA | JSON, "finish_reason": JSON, "stop_reason": JSON}
)
ANY_CHUNK = st.fixed_dictionaries(
    {}, optional={"model": JSON, "usage": JSON, "choices": st.lists(ANY_CHOICE | JSON, max_size=2) | JSON}
)


@given(st.lists(ANY_CHUNK, max_size=5))
def test_any_chunks_give_a_message(chunks: list[JsonObject]) -> None:
    events = stream()
    got = [event for each in chunks for event in events.chunk(each)]
    json.dumps(events.message())
    types = [event["type"] for event in got + events.end()]
    assert types[0] == "message_start"
    assert types.count("message_start") == types.count("message_stop") == 1
    assert types.count("content_block_start") == types.count("content_block_stop")
