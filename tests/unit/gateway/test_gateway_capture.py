"""What is read out of answers, and what is taken out of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from leyden_gateway.errors import MalformedAnswer
from leyden_gateway.exchange.capture import Capture, ChoiceCapture, error_text, id_text, merge_delta
from leyden_gateway.exchange.fields import Fields, encode, of
from leyden_gateway.exchange.training_mode import Wants

NOTHING, ALL = Wants(), Wants(token_ids=True, logprobs=True, usage=True)


def numbers(choice: ChoiceCapture) -> list[Any]:
    return list(choice.logprobs)


def logprobs(*values: float | None) -> dict[str, Any]:
    return {"content": [{"token": "t", "logprob": value, "top_logprobs": []} for value in values]}


WHOLE: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 5,
    "model": "calculator@1",
    "prompt_token_ids": [1, 2],
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hi"},
            "logprobs": logprobs(-0.5, -1),
            "finish_reason": "stop",
            "token_ids": [7, 8],
        }
    ],
    "usage": {"prompt_tokens": 2, "completion_tokens": 2},
}
TEXT: dict[str, Any] = {
    "id": "c2",
    "object": "text_completion",
    "choices": [
        {
            "index": index,
            "text": text,
            "logprobs": {"tokens": ["a"], "token_logprobs": [-0.5 - index], "text_offset": [0]},
            "finish_reason": "length",
            "token_ids": [7 + index],
            "prompt_token_ids": [index],
        }
        for index, text in enumerate(["a", "b"])
    ],
}


def chunk(delta: dict[str, Any], index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, **fields}]}


def captured(*chunks: dict[str, Any], wants: Wants = NOTHING) -> Capture:
    capture = Capture()
    for one in chunks:
        capture.chunk(of(one), wants)
    return capture


def plain(fields: Fields | dict[str, Any] | None) -> Any:
    return json.loads(encode(fields))


def ids(choice: ChoiceCapture) -> list[int]:
    found: list[int] = json.loads(choice.token_ids)
    assert choice.sampled == len(found)
    return found


def test_a_whole_answer() -> None:
    capture = Capture()
    capture.whole(of(WHOLE), ALL)
    choice = capture.choices[0]
    assert json.loads(capture.prompt_ids) == [1, 2]
    assert (ids(choice), numbers(choice), choice.finish_reason) == ([7, 8], [-0.5, -1.0], "stop")
    assert plain(capture.response(choice)) == WHOLE
    assert capture.sampled
    assert capture.finished(1)
    assert not capture.finished(2)


def test_a_stream_is_put_together_again() -> None:
    capture = captured(chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": [1, 2]})
    assert not capture.sampled
    for piece in (
        chunk({"content": "h"}, token_ids=[7], logprobs=logprobs(-0.5)),
        chunk({"content": "i"}, token_ids=[8], logprobs=logprobs(-1), finish_reason="stop"),
        {"choices": [], "usage": WHOLE["usage"]},
    ):
        capture.chunk(of(piece), NOTHING)
    choice = capture.choices[0]
    assert (capture.prompt_ids, ids(choice), numbers(choice)) == (b"[1,2]", [7, 8], [-0.5, -1.0])
    assert plain(capture.response(choice)) == {
        "id": "c1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": WHOLE["usage"],
    }


@pytest.mark.parametrize(
    ("kind", "whole"),
    [("chat.completion.chunk", "chat.completion"), ("text_completion", "text_completion")],
)
def test_a_stream_put_together_is_called_what_the_whole_would_be(kind: str, whole: str) -> None:
    capture = captured(chunk({"content": "x"}) | {"object": kind})
    assert plain(capture.response(capture.choices[0]))["object"] == whole


def test_several_ids_in_a_chunk() -> None:
    capture = captured(
        chunk({}, token_ids=[7, 8], logprobs=logprobs(-0.5, -1)),
        chunk({}, token_ids=[]),
        chunk({}, token_ids=[9]),
    )
    assert ids(capture.choices[0]) == [7, 8, 9]


def test_alternatives_are_kept_apart() -> None:
    capture = captured(
        *(
            chunk({"content": text}, index, token_ids=[ord(text)])
            for index, text in ((0, "a"), (1, "b"), (0, "c"))
        )
    )
    assert {i: c.message["content"] for i, c in capture.choices.items()} == {0: "ac", 1: "b"}
    assert {i: ids(c) for i, c in capture.choices.items()} == {0: [97, 99], 1: [98]}


def test_a_whole_answer_of_several_alternatives_is_narrowed_to_each() -> None:
    capture = Capture()
    second = {**WHOLE["choices"][0], "index": 1}
    capture.whole(of({**WHOLE, "choices": [WHOLE["choices"][0], second]}), ALL)
    narrowed = [plain(capture.response(choice))["choices"] for choice in capture.choices.values()]
    assert narrowed == [[WHOLE["choices"][0]], [second]]


def test_text_completions_have_a_prompt_for_each_choice() -> None:
    capture = Capture()
    seen = capture.whole(of(TEXT), NOTHING)
    first, second = capture.choices.values()
    assert [ids(first), ids(second)] == [[7], [8]]
    assert [numbers(first), numbers(second)] == [[-0.5], [-1.5]]
    assert [capture.prompt_of(first), capture.prompt_of(second)] == [b"[0]", b"[1]"]
    assert [set(choice) for choice in plain(seen)["choices"]] == [
        {"index", "text", "logprobs", "finish_reason"}
    ] * 2
    assert [choice["logprobs"] for choice in plain(seen)["choices"]] == [None, None]


def test_streamed_text_is_joined() -> None:
    pieces = [{"index": 0, "text": text, "token_ids": [ord(text)]} for text in "ab"]
    capture = captured(
        {"object": "text_completion", "choices": [pieces[0] | {"prompt_token_ids": [3]}]},
        {"choices": [pieces[1] | {"finish_reason": "stop", "prompt_token_ids": None}]},
    )
    choice = capture.choices[0]
    assert (ids(choice), capture.prompt_of(choice)) == ([97, 98], b"[3]")
    assert plain(capture.response(choice)) == {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}],
    }


def calls(*pieces: Any) -> Any:
    """The tool calls of a streamed message that these are the pieces of."""
    capture = captured(*(chunk({"tool_calls": [piece]}) for piece in pieces))
    return plain(capture.response(capture.choices[0]))["choices"][0]["message"]["tool_calls"]


def call(call_id: str | None, arguments: str, name: str = "add") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_calls_arrive_in_pieces() -> None:
    assert calls(
        {"index": 0, **call("call_1", "")},
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 1, **call("call_2", "")},
        {"index": 0, "function": {"arguments": "1}"}},
    ) == [call("call_1", '{"a":1}'), call("call_2", "")]


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": True}])
def test_calls_of_servers_that_do_not_count_them(index: dict[str, Any]) -> None:
    assert calls(
        {**index, **call("call_1", '{"a":')},
        {**index, "function": {"arguments": "1}"}},
        {**index, **call("call_2", "{}")},
        {**index, "function": {"name": "sub", "arguments": "{}"}},
    ) == [call("call_1", '{"a":1}'), call("call_2", "{}"), call(None, "{}", name="sub")]


def test_calls_may_be_counted_from_anywhere() -> None:
    assert calls(
        {"index": 4, **call("call_1", "{")},
        {"index": 2, **call("call_2", "")},
        {"index": 4, "function": {"arguments": "}"}},
    ) == [call("call_1", "{}"), call("call_2", "")]


def test_a_function_call_of_older_clients_arrives_in_pieces() -> None:
    message: dict[str, Any] = {}
    for piece in ({"name": "add", "arguments": "{"}, {"arguments": "}"}, None):
        merge_delta(message, of({"function_call": piece}))
    assert message == {"function_call": {"name": "add", "arguments": "{}"}}


def test_pieces_that_nobody_defined_are_kept() -> None:
    message: dict[str, Any] = {}
    merge_delta(message, of({"role": "assistant", "said": "a", "details": [1], "none": None}))
    merge_delta(message, of({"role": "assistant", "said": "b", "details": [2], "none": None}))
    assert message == {"role": "assistant", "said": "ab", "details": [2]}


def test_reasoning_is_joined_like_text() -> None:
    message: dict[str, Any] = {}
    merge_delta(message, of({"reasoning_content": "so "}))
    merge_delta(message, of({"reasoning_content": "it is", "content": None}))
    assert message == {"reasoning_content": "so it is"}


def test_a_token_without_a_logprob_is_trouble() -> None:
    choice = captured(chunk({}, token_ids=[1, 2], logprobs=logprobs(None, -0.5))).choices[0]
    assert choice.trouble() == "logprobs_not_finite"


@pytest.mark.parametrize(
    "odd",
    [{"content": [1]}, {"content": 3}, {"content": [{"logprob": "-0.5"}]}, [], {"token_logprobs": [[]]}],
)
def test_logprobs_that_are_not_the_protocol_s_do_not_cost_the_caller_its_answer(odd: Any) -> None:
    choice = captured(chunk({"content": "x"}, token_ids=[1], logprobs=odd)).choices[0]
    assert choice.trouble() == "logprobs_not_finite"
    assert choice.message == {"content": "x"}


def test_an_error_inside_an_answer() -> None:
    capture = captured({"error": {"message": "out of memory", "type": "x"}})
    assert capture.error == "out of memory"
    assert error_text("plain") == "plain"
    assert error_text({"detail": 1}) == "{'detail': 1}"


def test_an_error_that_is_the_answer_itself() -> None:
    bare = {"object": "error", "message": "out of memory", "type": "x", "code": 500}
    assert captured(bare).error == "out of memory"
    assert plain(Capture().chunk(of(bare), NOTHING)) == {"error": bare}
    whole = Capture()
    whole.whole(of(bare), NOTHING)
    assert whole.error == "out of memory"


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": {}},
        {"choices": ["x"]},
        {"choices": [{"index": "0"}]},
        {"choices": [{"index": -1}]},
        {"choices": [{"index": 0.5}]},
        {"choices": [{"token_ids": [1, "2"]}]},
        {"choices": [{"token_ids": [True]}]},
        {"choices": [{"token_ids": [-1]}]},
        {"choices": [{"token_ids": [1.0]}]},
        {"choices": [{"token_ids": [[1]]}]},
        {"choices": [{"token_ids": 1}]},
        {"choices": [{"prompt_token_ids": "1"}]},
        {"prompt_token_ids": ["1"], "choices": [{}]},
    ],
)
def test_answers_that_are_not_the_protocol_s(answer: Any) -> None:
    with pytest.raises(MalformedAnswer):
        Capture().chunk(of(answer), NOTHING)


@pytest.mark.parametrize("odd", [5, True, "text", {"a": 1}, None, [1, None], [{"function": 5}]])
def test_odd_tool_calls_are_skipped(odd: Any) -> None:
    message: dict[str, Any] = {}
    merge_delta(message, of({"content": "x", "tool_calls": odd}))
    assert message["content"] == "x"


@pytest.mark.parametrize(
    ("text", "inside"),
    [(None, b""), (b"null", b""), (b"[]", b""), (b"[ ]", b""), (b"[1, 2]", b"1, 2"), (b"[\n 7\n]", b"7")],
)
def test_the_text_of_ids(text: bytes | None, inside: bytes) -> None:
    assert id_text(None if text is None else Raw(text)) == inside


def test_an_answer_without_choices() -> None:
    with pytest.raises(MalformedAnswer, match="no choices"):
        Capture().whole(of({"choices": []}), NOTHING)


NAMES = (
    "choices",
    "index",
    "delta",
    "message",
    "text",
    "token_ids",
    "prompt_token_ids",
    "logprobs",
    "content",
    "logprob",
    "token_logprobs",
    "usage",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "error",
    "finish_reason",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "delta": st.dictionaries(st.sampled_from(["content", "role", "tool_calls", "reasoning"]), JSON),
        "token_ids": st.lists(st.integers(0, 9)) | JSON,
        **dict.fromkeys(("message", "index", "text", "logprobs", "finish_reason", "prompt_token_ids"), JSON),
    },
)
ANSWER = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4),
    st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": JSON, "error": JSON}),
)


@given(ANSWER, st.booleans(), st.sampled_from([NOTHING, ALL, Wants(usage=True)]))
def test_nothing_else_is_ever_raised(answer: dict[str, Any], whole: bool, wants: Wants) -> None:
    capture = Capture()
    try:
        (capture.whole if whole else capture.chunk)(of(answer), wants)
    except MalformedAnswer:
        return
    for choice in capture.choices.values():
        encode(capture.response(choice))
        json.loads(choice.token_ids)


def test_what_was_not_asked_for_is_removed() -> None:
    seen = plain(Capture().whole(of(WHOLE), NOTHING))
    choice = {"index": 0, "message": WHOLE["choices"][0]["message"], "finish_reason": "stop"}
    assert seen["choices"] == [{**choice, "logprobs": None}]
    assert "prompt_token_ids" not in seen
    assert seen["usage"] == WHOLE["usage"]
    again = of(seen)
    assert Capture().whole(again, NOTHING) is again


def test_what_was_asked_for_stays() -> None:
    answer = of(WHOLE)
    assert Capture().whole(answer, ALL) is answer
    seen = plain(Capture().whole(of(WHOLE), Wants(logprobs=True)))
    assert seen["choices"][0]["logprobs"] == WHOLE["choices"][0]["logprobs"]
    assert "token_ids" not in seen["choices"][0]


def test_the_response_is_what_the_caller_saw() -> None:
    capture = Capture()
    seen = capture.whole(of(WHOLE), NOTHING)
    assert plain(capture.response(capture.choices[0])) == plain(seen)


def test_usage_of_a_stream_is_removed_unless_asked_for() -> None:
    only_usage = of({"choices": [], "usage": {"prompt_tokens": 1}})
    assert Capture().chunk(only_usage, NOTHING) is None
    assert Capture().chunk(only_usage, ALL) is only_usage
    beside = of({"choices": [{"delta": {"content": "x"}}], "usage": None})
    assert plain(Capture().chunk(beside, NOTHING)) == {"choices": [{"delta": {"content": "x"}}]}
