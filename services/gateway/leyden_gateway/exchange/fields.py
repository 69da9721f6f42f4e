"""JSON objects taken apart one level deep: what is decided on is decoded, the rest keeps its bytes.

A completion's answer is mostly log-probabilities, a request mostly its conversation. Both pass through here
as raw values, checked to be JSON but never built as Python objects.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import from_json, to_json

Fields = dict[str, Raw]
"""An object's members in their order; each value as the JSON text it came as."""

MAX_DEPTH = 120
"""Nesting that every reader of the log can follow (pydantic's parser stops at 200)."""

NULL = Raw(b"null")

_fields = msgspec.json.Decoder(Fields)
_list = msgspec.json.Decoder(list[Raw])
_objects = msgspec.json.Decoder(list[Fields])
encode = msgspec.json.Encoder().encode
"""Any mixture of raw and Python values as JSON text."""


class NotJson(ValueError):
    """The text is not a JSON object, or not one that can be passed on; the message says what is wrong."""


def parse(text: bytes) -> Fields:
    """The members of a JSON object that every reader of the log can follow. Raises ``NotJson``."""
    fields = parse_any(text)
    check_readable(text)
    return fields


def check_readable(text: bytes) -> None:
    """Raises ``NotJson`` when valid JSON is nested too deeply, or has numbers too long, for the log."""
    if deeper_than(text, MAX_DEPTH):
        raise NotJson(f"the JSON is nested more than {MAX_DEPTH} levels deep")
    if _may_have_endless_number(text):
        _check_numbers(text)


def parse_any(text: bytes) -> Fields:
    """The members of a JSON object in UTF-8, whatever they hold. Raises ``NotJson``."""
    try:
        fields = _fields.decode(text)
        if not text.isascii():
            text.decode("utf-8")
    except msgspec.ValidationError:
        raise NotJson("a JSON object is expected") from None
    except UnicodeDecodeError as error:
        raise NotJson(f"the text is not valid UTF-8: {error}") from None
    except RecursionError:
        raise NotJson(f"the JSON is nested more than {MAX_DEPTH} levels deep") from None
    except msgspec.DecodeError as error:
        raise NotJson(f"the text is not valid JSON: {error}") from None
    return fields


def parse_answer(text: bytes) -> Fields:
    """``parse_any`` for servers that write ``NaN`` or ``Infinity``: these become null. Raises ``NotJson``.

    What of an answer goes on the log is for ``check_readable``; most of an answer does not.
    """
    try:
        return parse_any(text)
    except NotJson:
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    try:
        return parse_any(to_json(from_json(text), inf_nan_mode="null"))
    except ValueError as error:
        raise NotJson(f"the text is not valid JSON: {error}") from None


_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
_USUAL_DEPTH = 12


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether valid JSON is nested more than ``limit`` levels; brackets inside strings do not count."""
    return text.count(b"{") + text.count(b"[") > limit and _depth(text) > limit


def _depth(text: bytes) -> int:
    """Innermost pairs of brackets are removed level by level; of what is unusually deep, they are summed."""
    brackets = _brackets(text)
    for depth in range(_USUAL_DEPTH):
        if not brackets:
            return depth
        brackets = brackets.replace(b"[]", b"")
    steps = memoryview(brackets.translate(_STEPS)).cast("b")
    return _USUAL_DEPTH + max(accumulate(steps), default=0)


def _brackets(text: bytes) -> bytes:
    """The brackets of valid JSON that are not inside strings, all of them square."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = text.translate(_BRACKETS, _NOT_BRACKETS).replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


_DIGITS = 4300
"""Of one number, as many as readers of the log take."""
_BLOCK = 2048


def _may_have_endless_number(text: bytes) -> bool:
    """Whether a number may have more digits than that: it would fill a block."""
    return len(text) > _DIGITS and any(
        text[start : start + _BLOCK].isdigit() for start in range(0, len(text), _BLOCK)
    )


def _check_numbers(text: bytes) -> None:
    try:
        from_json(text)
    except ValueError as error:
        raise NotJson(f"the JSON cannot be passed on: {error}") from None


def decoded(raw: Raw | bytes) -> Any:
    """JSON text as a Python value; numbers too large for a float are infinite."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return from_json(bytes(raw))


def value(fields: Mapping[str, Raw], name: str) -> Any:
    """A member as a Python value; None when it is absent or null."""
    raw = fields.get(name)
    return None if raw is None else decoded(raw)


def objects(raw: Raw | None) -> list[Fields]:
    """A list of objects, each taken apart; empty when absent or null. Raises ``NotJson``."""
    if raw is None or raw == NULL:
        return []
    try:
        return _objects.decode(raw)
    except msgspec.MsgspecError:
        raise NotJson("something other than a list of objects where one was expected") from None


def fields_of(raw: Raw | None) -> Fields | None:
    """An object taken apart; None when the value is absent, or anything else."""
    if raw is None:
        return None
    try:
        return _fields.decode(raw)
    except msgspec.MsgspecError:
        return None


def items(raw: Raw | None) -> list[Raw] | None:
    """The elements of a list; None when the value is absent, or anything else."""
    if raw is None:
        return None
    try:
        return _list.decode(raw)
    except msgspec.MsgspecError:
        return None


def of(payload: Mapping[str, Any]) -> Fields:
    """The members of a Python object."""
    return {name: Raw(encode(member)) for name, member in payload.items()}


def is_present(fields: Mapping[str, Raw], name: str) -> bool:
    """Whether a member is there and not null."""
    raw = fields.get(name)
    return raw is not None and raw != NULL
