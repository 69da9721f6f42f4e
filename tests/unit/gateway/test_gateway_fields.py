"""JSON taken apart: what is accepted can be read by everybody behind the log, whatever it holds."""

import json
from math import inf
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from leyden_gateway.exchange.fields import (
    MAX_DEPTH,
    Fields,
    NotJson,
    decoded,
    deeper_than,
    encode,
    fields_of,
    is_present,
    items,
    objects,
    of,
    parse,
    parse_answer,
    value,
)
from leyden_schemas import Topics, decode


def nested(depth: int, inside: str = "1") -> str:
    """An object that is nested ``depth`` levels, of arrays and objects in turn."""
    text = inside
    for level in range(depth - 1):
        text = f"[{text}]" if level % 2 else f'{{"a":{text}}}'
    return f'{{"top":{text}}}'


def reread(request: Fields) -> dict[str, Any]:
    """What a reader of the log makes of a request inside a record."""
    record = {
        "type": "completion_recorded",
        "event_id": UUID(int=1),
        "rollout_id": UUID(int=2),
        "completion_id": UUID(int=3),
        "occurred_at": "2026-01-01T00:00:00Z",
        "policy": "calculator",
        "request": request,
    }
    found: dict[str, Any] = decode(Topics.EVENTS, encode(record)).request
    return found


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json",
        b"[1]",
        b'"text"',
        b"1",
        b"null",
        b"{",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": [Infinity]}',
        b'{"a": 01}',
        b'{"a": "\x01"}',
        b'{"a": "\xff\xfe"}',
        b'{"\xff": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xc0\x80"}',
        b'\xef\xbb\xbf{"a": 1}',
        rb'{"a": "\ud800"}',
        rb'{"a": ["\udc00\ud800"]}',
        rb'{"\ud800": 1}',
        rb'{"a": "\x"}',
        b'{"a": %b}' % (b"9" * 4301),
        b'{"a": [-%b.5]}' % (b"1" * 9000),
        b"[" * 5000,
        b'{"a":' * 5000,
        nested(MAX_DEPTH + 1).encode(),
        b"".join([b'{"a":'] * 5000 + [b"1"] + [b"}"] * 5000),
    ],
)
def test_what_is_not_a_request(text: bytes) -> None:
    with pytest.raises(NotJson):
        parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", {}),
        (b' {"a" : [1 , 2]}\n', {"a": [1, 2]}),
        ('{"a": "žluť 🐭"}'.encode(), {"a": "žluť 🐭"}),
        (rb'{"a": "\ud83d\udc2d"}', {"a": "🐭"}),
        (b'{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2}),
        (b'{"a": %b}' % (b"9" * 4300), {"a": int("9" * 4300)}),
        (b'{"a": "%b"}' % (b"9" * 9000), {"a": "9" * 9000}),
        (b'{"a": 0.%b}' % (b"1" * 4000), {"a": 0.1111111111111111}),
        (b'{"a": 1e999}', {"a": inf}),
        (b'{"a": -0}', {"a": 0}),
        (nested(MAX_DEPTH).encode(), json.loads(nested(MAX_DEPTH))),
        (b'{"a": "%b"}' % (b"[" * 500), {"a": "[" * 500}),
        (b'{"a": "%b"}' % (rb"\"[{\\" * 200), {"a": '"[{\\' * 200}),
    ],
)
def test_what_is_a_request_is_read_the_same_behind_the_log(text: bytes, expected: dict[str, Any]) -> None:
    assert reread(parse(text)) == expected


def test_values_keep_their_text() -> None:
    fields = parse(b'{"a": [ 1.50 ,"\\u0041" ], "b": {"x":1e2}}')
    assert {name: bytes(raw) for name, raw in fields.items()} == {
        "a": b'[ 1.50 ,"\\u0041" ]',
        "b": b'{"x":1e2}',
    }
    assert encode(fields) == b'{"a":[ 1.50 ,"\\u0041" ],"b":{"x":1e2}}'


def test_the_message_says_what_is_wrong() -> None:
    for text, message in (
        (b"[]", "a JSON object is expected"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"a": x}', "byte 6"),
        (nested(200).encode(), "more than 120 levels"),
        (b'{"a": %b}' % (b"9" * 5000), "number out of range"),
    ):
        with pytest.raises(NotJson, match=message):
            parse(text)


STRINGS = st.sampled_from(
    [
        "",
        "a",
        "]",
        "[",
        "[[",
        "}{",
        r"\"",
        r"\\",
        r"\\\"[",
        r"\n]",
        r"\ud800",
        r"\ud83d\ude00",
        "é",
        "\x7f",
        "\x01",
    ]
).map(lambda inside: f'"{inside}"')
NUMBERS = st.sampled_from(
    ["0", "-1", "1.5", "1e5", "1e999", "-1e-999", "01", "1.", "9" * 4300, "9" * 4301, "NaN"]
)


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(STRINGS, inner).map(":".join)
    return st.one_of(
        st.lists(inner, max_size=4).map(lambda found: f"[{','.join(found)}]"),
        st.lists(member, max_size=4).map(lambda found: f"{{{', '.join(found)}}}"),
        st.tuples(st.integers(1, 90), inner).map(lambda found: "[" * found[0] + found[1] + "]" * found[0]),
        st.tuples(st.integers(1, 90), inner).map(lambda f: '["]",{"a":' * f[0] + f[1] + '},"["]' * f[0]),
    )


TEXTS = st.recursive(STRINGS | NUMBERS | st.sampled_from(["true", "null", "nul"]), _containers, max_leaves=12)
OBJECTS = st.lists(st.tuples(STRINGS, TEXTS).map(":".join), max_size=4).map(
    lambda found: f"{{{','.join(found)}}}"
)
WRITTEN = OBJECTS.map(str.encode)
TORN = st.tuples(WRITTEN, st.integers(0, 400), st.binary(max_size=3)).map(
    lambda torn: torn[0][: torn[1]] + torn[2] + torn[0][torn[1] :]
)


@given(st.one_of(WRITTEN, TORN, st.binary()))
def test_whatever_is_accepted_can_be_read_behind_the_log(text: bytes) -> None:
    try:
        fields = parse(text)
    except NotJson:
        return
    assert set(reread(fields)) == set(fields)
    for name in fields:
        value(fields, name)


@given(WRITTEN)
def test_nothing_else_that_is_json_is_refused(text: bytes) -> None:
    try:
        expected = json.loads(text, parse_constant=_refuse, object_pairs_hook=_without_duplicates)
        json.dumps(expected, ensure_ascii=False).encode()
    except ValueError:
        return
    if naive_depth(expected) <= MAX_DEPTH:
        assert reread(parse(text)) == expected


def _refuse(name: str) -> None:
    raise ValueError(name)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("the depth of what is overwritten would be missed")
    return dict(pairs)


def naive_depth(payload: Any) -> int:
    if isinstance(payload, dict):
        return 1 + max(map(naive_depth, payload.values()), default=0)
    return 1 + max(map(naive_depth, payload), default=0) if isinstance(payload, list) else 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('[]{}"\\a,:')),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[]{}"\\')), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(JSON, st.integers(0, 30), st.integers(0, 40), st.booleans())
def test_depth_is_that_of_a_naive_count(payload: Any, deeper: int, limit: int, objects_too: bool) -> None:
    for level in range(deeper):
        payload = {"[": payload} if objects_too and level % 2 else ["]", payload]
    text = json.dumps(payload).encode()
    assert deeper_than(text, limit) == (naive_depth(payload) > limit)


@pytest.mark.parametrize("depth", [1, 11, 12, 13, 14, 119, 120, 121, 150, 240])
def test_depth_where_the_way_of_counting_changes(depth: int) -> None:
    for text in (
        nested(depth).encode(),
        b"[" * depth + b"]" * depth,
        b'["]",' * depth + b"1" + b',"["]' * depth,
    ):
        assert deeper_than(text, depth - 1)
        assert not deeper_than(text, depth)


def test_servers_may_write_numbers_that_json_does_not_have() -> None:
    lenient = parse_answer(b'{"a": NaN, "b": [-Infinity, 1], "c": "NaN"}')
    assert json.loads(encode(lenient)) == {"a": None, "b": [None, 1], "c": "NaN"}
    for text in (
        b'{"a": NaN',
        b'{"a": nan, "b": "NaN"}',
        b'["NaN"]',
        b'{"NaN": %b}' % (b"[" * 5000 + b"]" * 5000),
    ):
        with pytest.raises(NotJson):
            parse_answer(text)


def test_members_are_decoded_when_asked_for() -> None:
    fields = parse(b'{"n": 3, "x": null, "big": 1e999}')
    assert [value(fields, name) for name in ("n", "x", "missing", "big")] == [3, None, None, inf]
    assert [is_present(fields, name) for name in ("n", "x", "missing")] == [True, False, False]
    assert decoded(b"[1e400, -1e400]") == [inf, -inf]


def test_lists_of_objects() -> None:
    assert objects(None) == objects(Raw(b"null")) == objects(Raw(b"[]")) == []
    assert objects(Raw(b'[{"a":1},{}]')) == [of({"a": 1}), {}]
    for odd in (b"{}", b"[1]", b"[null]", b'"x"'):
        with pytest.raises(NotJson):
            objects(Raw(odd))


def test_parts_that_may_be_anything() -> None:
    assert fields_of(Raw(b'{"a":1}')) == of({"a": 1})
    assert [fields_of(raw) for raw in (None, Raw(b"null"), Raw(b"[]"), Raw(b"1"))] == [None] * 4
    found = items(Raw(b'["a", {"b": 1}]'))
    assert found is not None
    assert [bytes(item) for item in found] == [b'"a"', b'{"b": 1}']
    assert [items(raw) for raw in (None, Raw(b"null"), Raw(b"{}"), Raw(b'"x"'))] == [None] * 4
