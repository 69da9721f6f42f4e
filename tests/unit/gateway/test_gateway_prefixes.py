"""What two JSON texts share, worked out by hand."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden_gateway.recording.prefixes import (
    NOTHING,
    Ids,
    Items,
    Shared,
    Text,
    common,
    conversation,
    count,
    sequence,
)

SPACED, COMPACT = (", ", ": "), (",", ":")


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [
        (b"", b"", 0),
        (b"a", b"", 0),
        (b"abc", b"abd", 2),
        (b"abc", b"abcdef", 3),
        (b"x" * 64 + b"a", b"x" * 64 + b"b", 64),
        (b"x" * 1000 + b"a" * 9, b"x" * 1000, 1000),
        (b"x" * 777 + b"a" * 500, b"x" * 777 + b"b" * 500, 777),
    ],
)
def test_the_common_beginning(one: bytes, other: bytes, length: int) -> None:
    assert common(one, other) == length
    assert common(other, one) == length


@pytest.mark.parametrize(
    ("known", "array", "taken", "rest"),
    [
        (b"[1,2", b"[1,2,3]", 2, b"[3]"),
        (b"[1,2", b"[1,2]", 2, b"[]"),
        (b"[1,2,3", b"[1,2]", 2, b"[]"),
        (b"[1,2", b"[1,23]", 1, b"[23]"),
        (b"[1,23", b"[1,2]", 1, b"[2]"),
        (b"[1,2,3", b"[1,2,4,5]", 2, b"[4,5]"),
        (b"[1,2", b"[9,2]", 0, b"[9,2]"),
        (b"[12", b"[1]", 0, b"[1]"),
        (b"[1", b"[]", 0, b"[]"),
        (b"[1, 2", b"[1, 2, 3]", 2, b"[ 3]"),
        (b"[1, 2", b"[1,2,3]", 1, b"[2,3]"),
        (b"[1,2", b"[1,2 , 3]", 1, b"[2 , 3]"),
    ],
)
def test_ids_share_whole_numbers(known: bytes, array: bytes, taken: int, rest: bytes) -> None:
    shared = Ids(known, count(known + b"]")).shared(array)
    assert (shared.taken, shared.cut(array)) == (taken, rest)


def test_no_ids_share_nothing() -> None:
    assert Ids(b"[", 0).shared(b"[1]") == NOTHING


@pytest.mark.parametrize(
    ("prompt", "sampled", "text", "length"),
    [
        (b"[1,2]", b"[3,4]", b"[1,2,3,4", 4),
        (b"[1, 2]", b"[3,4]", b"[1, 2, 3, 4", 4),
        (b"[1,2]", b"[3, 4]", b"[1,2,3,4", 4),
        (b"[1]", b"[2, 3]", b"[1,2,3", 3),
        (b"[1,2]", b"[]", b"[1,2", 2),
        (b"[]", b"[3]", b"[3", 1),
        (b"[]", b"[]", b"[", 0),
        (b"[ 1 ]", b"[ ]", b"[ 1", 1),
    ],
)
def test_what_was_sampled_follows_the_prompt(prompt: bytes, sampled: bytes, text: bytes, length: int) -> None:
    assert sequence(prompt, count(prompt), sampled) == Ids(text, length)


@pytest.mark.parametrize(
    ("known", "raw", "taken", "rest"),
    [
        (b'[{"a":1}]', b'[{"a":1},{"b":2}]', 1, b'[{"b":2}]'),
        (b'[{"a":1}]', b'[{"a":1}]', 1, b"[]"),
        (b'[{"a":1},{"b":2}]', b'[{"a":1},{"c":3}]', 1, b'[{"c":3}]'),
        (b'[{"a":1},{"b":2}]', b'[{"a":1}]', 1, b"[]"),
        (b'[{"a":1}]', b'[{"a":12}]', 0, b'[{"a":12}]'),
        (b"[1,3]", b"[1,34]", 1, b"[34]"),
        (b"[1,3]", b"[1,3.5]", 1, b"[3.5]"),
        (b"[1,34]", b"[1,3]", 1, b"[3]"),
        (b'["a"]', b'["a", "b"]', 1, b'["b"]'),
        (b'["a" , "b"]', b'["a" ]', 1, b"[]"),
        (b'["a","b"]', b'["a" ,"b"]', 1, b'["b"]'),
        (b'["]"]', b'["]",1]', 1, b"[1]"),
        (b"[]", b"[1]", 0, b"[1]"),
        (b"[[1,2]]", b'[[1,2],"x"]', 1, b'["x"]'),
        (b"[1]", b'"text"', 0, b'"text"'),
        (b'"ab"', b'"abc"', 2, b'"c"'),
        (b'"a\\""', b'"a\\"b"', 2, b'"b"'),
        (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00!"', 1, b'"!"'),
        (b'"ab"', b'"abc', 2, b'"c'),
        (b'"abc"', b'"ab"', 0, b'"ab"'),
        (b'""', b'"ab"', 0, b'"ab"'),
        (b'"1"', b"[1]", 0, b"[1]"),
    ],
)
def test_conversations_share_whole_items_and_whole_texts(
    known: bytes, raw: bytes, taken: int, rest: bytes
) -> None:
    found = conversation(known, None, NOTHING)
    assert found is not None
    shared = found.shared(raw)
    assert (shared.taken, shared.cut(raw)) == (taken, rest)


@pytest.mark.parametrize("raw", [b"null", b"5", b'{"a":1}', b'["broken', b'"\\ud83d"'])
def test_what_is_neither_an_array_nor_a_text_is_no_conversation(raw: bytes) -> None:
    assert conversation(raw, None, NOTHING) is None


def test_where_items_end() -> None:
    raw = b'[ {"a": [1, 2]} , "]," ]'
    assert conversation(raw, None, NOTHING) == Items(b'[ {"a": [1, 2]} , "],"', [15, 22])


def test_only_what_is_new_of_a_conversation_is_taken_apart() -> None:
    known = Items(b'["a", "b"', [4, 999])  # 999 would be found out if it were looked at again
    assert conversation(b'["a", "c"]', known, Shared(1, 6)) == Items(b'["a", "c"', [4, 9])


def test_a_text_counts_characters() -> None:
    assert conversation('"é😀\\n"'.encode(), None, NOTHING) == Text('"é😀\\n'.encode(), 3)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["]", '"', ",", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    base=st.lists(VALUES, max_size=5),
    kept=st.integers(0, 5),
    more=st.lists(VALUES, max_size=3),
    one=st.sampled_from([SPACED, COMPACT]),
    other=st.sampled_from([SPACED, COMPACT]),
)
def test_shared_items_and_the_rest_are_the_whole(
    base: list[Any], kept: int, more: list[Any], one: tuple[str, str], other: tuple[str, str]
) -> None:
    known = conversation(json.dumps(base, separators=one).encode(), None, NOTHING)
    new = base[:kept] + more
    raw = json.dumps(new, separators=other).encode()
    assert known is not None

    shared = known.shared(raw)

    assert base[: shared.taken] + json.loads(shared.cut(raw)) == new
    if one == other:
        assert shared.taken >= len(base[:kept])
        assert conversation(raw, known, shared) == conversation(raw, None, NOTHING)


@settings(deadline=None)
@given(base=st.text(max_size=8), more=st.text(max_size=8), ascii_only=st.booleans())
def test_a_shared_text_and_the_rest_are_the_whole(base: str, more: str, ascii_only: bool) -> None:
    known = conversation(json.dumps(base, ensure_ascii=ascii_only).encode(), None, NOTHING)
    raw = json.dumps(base + more, ensure_ascii=ascii_only).encode()
    assert known is not None
    shared = known.shared(raw)
    assert (shared.taken, json.loads(shared.cut(raw))) == (len(base), more)
