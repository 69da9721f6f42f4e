"""What is read out of answers, and what is taken out of them."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.errors import MalformedAnswer
from leyden_gateway.exchange.capture import Capture, error_text, merge_delta, strip, strip_chunk
from leyden_gateway.exchange.training_mode import Wants

NOTHING, ALL = Wants(), Wants(token_ids=True, logprobs=True, usage=True)


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


def chunk(delta: dict[str, Any], index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": delta, **fields}]}


def test_a_whole_answer() -> None:
    capture = Capture()
    capture.whole(copy.deepcopy(WHOLE))
    choice = capture.choices[0]
    assert capture.prompt_token_ids == [1, 2]
    assert (choice.token_ids, choice.logprobs, choice.finish_reason) == ([7, 8], [-0.5, -1.0], "stop")
    assert capture.response(choice) == WHOLE
    assert capture.sampled
    assert capture.finished(1)
    assert not capture.finished(2)


def test_a_stream_is_put_together_again() -> None:
    capture = Capture()
    capture.chunk(chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": [1, 2]})
    assert not capture.sampled
    capture.chunk(chunk({"content": "h"}, token_ids=[7], logprobs=logprobs(-0.5)))
    capture.chunk(chunk({"content": "i"}, token_ids=[8], logprobs=logprobs(-1), finish_reason="stop"))
    capture.chunk({"choices": [], "usage": WHOLE["usage"]})
    choice = capture.choices[0]
    assert (capture.prompt_token_ids, choice.token_ids, choice.logprobs) == ([1, 2], [7, 8], [-0.5, -1.0])
    assert capture.response(choice) == {
        "id": "c1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": WHOLE["usage"],
    }


def test_alternatives_are_kept_apart() -> None:
    capture = Capture()
    for index, text in ((0, "a"), (1, "b"), (0, "c")):
        capture.chunk(chunk({"content": text}, index, token_ids=[ord(text)]))
    assert {i: c.message["content"] for i, c in capture.choices.items()} == {0: "ac", 1: "b"}
    assert {i: c.token_ids for i, c in capture.choices.items()} == {0: [97, 99], 1: [98]}


def test_tool_calls_arrive_in_pieces() -> None:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    opening = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    for piece in (
        opening,
        {"index": 0, "function": {"arguments": '{"a":'}},
        {"index": 0, "function": {"arguments": "1}"}},
        {**opening, "index": 1, "id": "call_2"},
    ):
        merge_delta(message, {"tool_calls": [piece]})
    assert message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": ""}},
        ],
    }


def test_reasoning_is_joined_like_text() -> None:
    message: dict[str, Any] = {}
    merge_delta(message, {"reasoning_content": "so "})
    merge_delta(message, {"reasoning_content": "it is", "content": None})
    assert message == {"reasoning_content": "so it is"}


def test_missing_and_odd_logprobs_keep_their_place() -> None:
    capture = Capture()
    capture.chunk(chunk({}, token_ids=[1, 2], logprobs=logprobs(None, -0.5)))
    assert capture.choices[0].logprobs == [None, -0.5]


def test_an_error_inside_an_answer() -> None:
    capture = Capture()
    capture.chunk({"error": {"message": "out of memory", "type": "x"}})
    assert capture.error == "out of memory"
    assert error_text("plain") == "plain"
    assert error_text({"detail": 1}) == "{'detail': 1}"


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "text",
        None,
        {"choices": {}},
        {"choices": ["x"]},
        {"choices": [{"index": "0"}]},
        {"choices": [{"index": -1}]},
        {"choices": [{"token_ids": [1, "2"]}]},
        {"choices": [{"token_ids": [True]}]},
        {"choices": [{"logprobs": {"content": [1]}}]},
        {"prompt_token_ids": ["1"], "choices": [{}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 4}]}}]},
    ],
)
def test_answers_that_are_not_the_protocol_s(answer: Any) -> None:
    with pytest.raises(MalformedAnswer):
        Capture().chunk(answer)


def test_an_answer_without_choices() -> None:
    with pytest.raises(MalformedAnswer, match="no choices"):
        Capture().whole({"choices": []})


NAMES = (
    "choices",
    "index",
    "delta",
    "message",
    "token_ids",
    "prompt_token_ids",
    "logprobs",
    "content",
    "logprob",
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
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_nothing_else_is_ever_raised(answer: Any, whole: bool) -> None:
    capture = Capture()
    try:
        (capture.whole if whole else capture.chunk)(answer)
    except MalformedAnswer:
        return
    strip_chunk(answer, NOTHING)
    for choice in capture.choices.values():
        capture.response(choice)


def test_strip_removes_what_was_not_asked_for() -> None:
    answer = copy.deepcopy(WHOLE)
    assert strip(answer, NOTHING)
    choice = {"index": 0, "message": WHOLE["choices"][0]["message"], "finish_reason": "stop"}
    assert answer["choices"] == [{**choice, "logprobs": None}]
    assert "prompt_token_ids" not in answer
    assert answer["usage"] == WHOLE["usage"]
    assert not strip(answer, NOTHING)


def test_strip_leaves_what_was_asked_for() -> None:
    answer = copy.deepcopy(WHOLE)
    assert not strip(answer, ALL)
    assert answer == WHOLE
    assert strip(answer, Wants(logprobs=True))
    assert answer["choices"][0]["logprobs"] == WHOLE["choices"][0]["logprobs"]


def test_usage_of_a_stream_is_removed_unless_asked_for() -> None:
    only_usage = {"choices": [], "usage": {"prompt_tokens": 1}}
    assert strip_chunk(dict(only_usage), NOTHING) is None
    assert strip_chunk(dict(only_usage), ALL) is False
    beside = {"choices": [{"delta": {"content": "x"}}], "usage": None}
    assert strip_chunk(beside, NOTHING) is True
    assert "usage" not in beside
