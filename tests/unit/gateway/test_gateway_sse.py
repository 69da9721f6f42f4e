"""The SSE parser: the same events however the bytes fall, and every byte accounted for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.exchange.sse import EventTooLarge, SseEvent, SseParser, encode_event, event_of, replaced

LINE = st.sampled_from(
    [
        b"data: x",
        b"data:y",
        b"data",
        b"data:  two spaces",
        b": comment",
        b"event: e",
        b"id",
        b"datax: 1",
        b"\xff",
    ]
)
EOL = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAM = st.lists(st.one_of(LINE, EOL), max_size=40).map(b"".join)


def parse(chunks: list[bytes]) -> tuple[list[SseEvent], SseEvent | None]:
    parser = SseParser(max_event_bytes=10_000)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events, parser.finish()


@given(STREAM, st.lists(st.integers(0, 200), max_size=8))
def test_chunk_boundaries_do_not_matter(stream: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    assert parse(chunks) == parse([stream[i : i + 1] for i in range(len(stream))])


@given(STREAM)
def test_no_byte_is_lost_or_changed(stream: bytes) -> None:
    events, rest = parse([stream])
    assert b"".join(event.raw for event in events) + (rest.raw if rest else b"") == stream


@given(st.lists(st.binary().filter(lambda d: b"\n" not in d and b"\r" not in d), max_size=8))
def test_encoded_events_come_back(payloads: list[bytes]) -> None:
    events, rest = parse([b"".join(map(encode_event, payloads))])
    assert [event.data for event in events] == payloads
    assert rest is None


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"data: one\n\n", b"one"),
        (b"data:one\n\n", b"one"),
        (b"data: one\r\n\r\n", b"one"),
        (b"data: one\ndata: two\n\n", b"one\ntwo"),
        (b"event: e\ndata: one\nid: 3\n\n", b"one"),
        (b": keep-alive\n\n", None),
        (b"data\n\n", b""),
        (b"event: ping\ndata: \r\n\r\n", b""),
    ],
)
def test_one_event(raw: bytes, data: bytes | None) -> None:
    assert parse([raw]) == ([SseEvent(raw, data)], None)


def test_an_event_without_its_blank_line_is_the_rest() -> None:
    events, rest = parse([b"data: one\n\ndata: [DONE]\n"])
    assert [event.data for event in events] == [b"one"]
    assert rest == SseEvent(b"data: [DONE]\n", b"[DONE]")


def test_an_endless_event_is_refused() -> None:
    parser = SseParser(max_event_bytes=100)
    parser.feed(b"data: ".ljust(100))
    with pytest.raises(EventTooLarge, match="100 bytes"):
        parser.feed(b"0")


def test_only_a_byte_order_mark_at_the_very_beginning_is_left_out() -> None:
    events, rest = parse([b"\xef\xbb", b"\xbfdata: one\n\n\xef\xbb\xbfdata: two\n\n"])
    assert events == [(b"data: one\n\n", b"one"), (b"\xef\xbb\xbfdata: two\n\n", None)]
    assert rest is None
    assert parse([b"\xef\xbb\xbfdata: half"]) == ([], (b"data: half", b"half"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: old\n\n", b"data: new\n\n"),
        (b"data:old\r\n\r\n", b"data: new\r\n\r\n"),
        (b"data: o\ndata: ld\n\n", b"data: new\n\n"),
        (b": hi\nevent: e\ndata: old\nid: 3\n\n", b": hi\nevent: e\ndata: new\nid: 3\n\n"),
        (b"id: 1\rdata: old\r\r", b"id: 1\rdata: new\r\r"),
        (b"event: e\ndata: old", b"event: e\ndata: new"),
    ],
)
def test_other_data_leaves_the_rest_of_an_event(raw: bytes, expected: bytes) -> None:
    assert replaced(event_of(raw), b"new") == expected
