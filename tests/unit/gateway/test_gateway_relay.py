"""A stream on its way through: what is let go at once, what is held, what breaks it."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from leyden_gateway.errors import ApiError, MalformedAnswer, TruncatedStream, UpstreamFailed
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.relay import StreamRelay
from leyden_gateway.exchange.sse import encode_event
from leyden_gateway.exchange.training_mode import Wants

DONE = encode_event(b"[DONE]")


def event(text: str, reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason, **fields}
    return encode_event(to_json({"choices": [choice]}))


def relay(wants: Wants | None = None, choices: int = 1) -> tuple[StreamRelay, Capture]:
    capture = Capture()
    return StreamRelay(capture, wants or Wants(), choices=choices, max_event_bytes=1000), capture


def test_text_goes_at_once_and_the_end_is_held() -> None:
    through, _ = relay()
    assert through.feed(event("a")) == event("a")
    assert through.feed(event("b", "stop") + DONE) == b""
    assert through.done
    through.finish()
    assert through.held() == event("b", "stop") + DONE


def test_the_end_of_the_last_alternative_is_what_counts() -> None:
    through, _ = relay(choices=2)
    assert through.feed(event("a", "stop", 0)) == event("a", "stop", 0)
    assert through.feed(event("b", None, 1)) == event("b", None, 1)
    assert through.feed(event("b", "length", 1)) == b""
    through.finish()


def test_captured_fields_are_removed_and_nothing_else_is_touched() -> None:
    through, capture = relay()
    odd_spacing = b'data: { "choices": [ {"index":0, "delta":{"content":"x"}} ] }\n\n'
    assert through.feed(odd_spacing) == odd_spacing
    assert through.feed(event("y", token_ids=[5])) == event("y")
    assert through.feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    assert capture.choices[0].token_ids == b"[5]"


def test_a_usage_chunk_nobody_asked_for_disappears() -> None:
    through, capture = relay()
    usage = encode_event(to_json({"choices": [], "usage": {"completion_tokens": 3}}))
    through.feed(event("a", "stop") + usage + DONE)
    assert through.held() == event("a", "stop") + DONE
    assert capture.usage == {"completion_tokens": 3}


@pytest.mark.parametrize("tail", [b"", DONE, b'data: {"choices"'])
def test_a_stream_without_a_finish_reason_is_truncated(tail: bytes) -> None:
    through, _ = relay()
    through.feed(event("a") + tail)
    with pytest.raises((TruncatedStream, MalformedAnswer)):
        through.finish()


def test_an_end_without_done_is_an_end() -> None:
    through, _ = relay()
    through.feed(event("a", "stop"))
    through.finish()
    assert through.held() == event("a", "stop")


def test_a_server_that_is_not_waited_for_is_spoken_for() -> None:
    through, _ = relay()
    through.feed(event("a", "stop"))
    through.finish()
    through.cut()
    assert through.held() == event("a", "stop") + DONE
    through, _ = relay()
    through.feed(event("a", "stop") + DONE)
    through.cut()
    assert through.held() == event("a", "stop") + DONE


def test_the_end_has_begun_once_all_alternatives_have_finished() -> None:
    through, _ = relay(choices=2)
    through.feed(event("a", "stop", 0))
    assert not through.holding
    through.feed(event("b", "stop", 1))
    assert through.holding
    assert not through.done


@pytest.mark.parametrize("done", [b"data: [DONE] \n\n", b"data:  [DONE]\r\n\r\n", b"data:[DONE]\t\n\n"])
def test_blanks_around_done(done: bytes) -> None:
    through, _ = relay()
    through.feed(event("a", "stop") + done)
    assert through.done
    through.finish()
    assert through.held() == event("a", "stop") + done


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_byte_order_mark_hides_nothing(size: int) -> None:
    through, capture = relay()
    stream = b"\xef\xbb\xbf" + event("a", token_ids=[7]) + event("b", "stop", token_ids=[8]) + DONE
    seen = b"".join(through.feed(stream[i : i + size]) for i in range(0, len(stream), size))
    through.finish()
    assert capture.choices[0].token_ids == b"[7,8]"
    assert capture.choices[0].message["content"] == "ab"
    assert seen + through.held() == event("a") + event("b", "stop") + DONE


def test_an_error_of_the_replica_is_held_and_named() -> None:
    through, _ = relay()
    failure = encode_event(b'{"error":{"message":"out of memory"}}')
    assert through.feed(event("a") + failure) == event("a")
    with pytest.raises(UpstreamFailed, match="out of memory"):
        through.finish()
    assert through.held() == failure


def test_an_error_in_an_older_form_is_told_in_the_protocol_s() -> None:
    through, _ = relay()
    assert through.feed(event("a") + encode_event(b'{"object":"error","message":"full"}')) == event("a")
    with pytest.raises(UpstreamFailed, match="full"):
        through.finish()
    assert through.held() == encode_event(b'{"error":{"object":"error","message":"full"}}')


def test_a_server_that_ignores_the_number_of_alternatives_has_ended_when_it_says_so() -> None:
    through, _ = relay(choices=2)
    assert through.feed(event("a", "stop")) == event("a", "stop")
    assert through.feed(DONE) == b""
    through.finish()
    assert through.held() == DONE


def test_an_alternative_more_than_was_asked_for_is_waited_for() -> None:
    through, _ = relay()
    parts = [event("a"), event("b", None, 1), event("", "stop")]
    assert through.feed(b"".join(parts)) == b"".join(parts)
    assert not through.holding
    assert through.feed(event("c", "stop", 1)) == b""


def test_names_and_ids_of_events_stay_when_captured_fields_go() -> None:
    through, _ = relay()
    begin, end = b": hi\r\nevent: delta\r\n", b"\r\nid: 7\r\n\r\n"
    inside, seen = event("a", token_ids=[5]).strip(), event("a").strip()
    assert through.feed(begin + inside + end) == begin + seen + end


def test_events_without_data_keep_a_stream_alive() -> None:
    through, _ = relay()
    alive = b"data:\n\ndata\n\ndata: \n\nevent: ping\r\ndata: \r\n\r\ndata:\ndata:\n\n"
    assert through.feed(event("a") + alive) == event("a") + alive
    assert not through.done


@pytest.mark.parametrize("bad", [b"data: {oops\n\n", b"data: [1]\n\n", b'data: {"a":"\xff"}\n\n'])
def test_malformed_events(bad: bytes) -> None:
    through, _ = relay()
    assert through.feed(event("a") + bad) == event("a")
    assert through.done
    with pytest.raises(MalformedAnswer):
        through.finish()


def test_an_endless_event() -> None:
    through, _ = relay()
    assert through.feed(b"data: " * 400) == b""
    assert through.done
    with pytest.raises(MalformedAnswer, match="1000 bytes"):
        through.finish()


EVENTS = st.lists(
    st.sampled_from(
        [
            event("a", token_ids=[1]),
            event("b"),
            b": ping\n\n",
            event("c", "stop"),
            encode_event(b'{"choices":[],"usage":{}}'),
            DONE,
        ]
    ),
    max_size=12,
)


@given(EVENTS, st.lists(st.integers(0, 2000), max_size=10))
def test_how_bytes_arrive_changes_nothing(events: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(events)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(bounds)]
    assert _through(pieces) == _through([stream])


def _through(pieces: list[bytes]) -> tuple[bytes, bytes, list[bytes], str | None]:
    through, capture = relay()
    now = b"".join(map(through.feed, pieces))
    problem: ApiError | None = None
    try:
        through.finish()
    except ApiError as error:
        problem = error
    ids = [choice.token_ids for choice in capture.choices.values()]
    return now, through.held(), ids, str(problem) if problem else None
