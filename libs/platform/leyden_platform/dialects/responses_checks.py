"""Readers of a caller's JSON that know where they are, so that a refusal can name the place."""

from collections.abc import Iterator
from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_schemas import JsonObject


def place(where: str, name: str) -> str:
    """The path of a field of the object at ``where``; the request itself is at the empty path."""
    return f"{where}.{name}" if where else name


def text_of(item: JsonObject, name: str, where: str) -> str:
    """A required string. Raises ``UnsupportedRequest``."""
    value = item.get(name)
    if not isinstance(value, str):
        raise _mismatch(value, "a string", place(where, name))
    return value


def object_of(item: JsonObject, name: str, where: str) -> JsonObject:
    """An object; an empty one where there is none. Raises ``UnsupportedRequest``."""
    value = item.get(name)
    if value is None:
        return {}
    return object_at(value, place(where, name))


def object_at(value: Any, where: str) -> JsonObject:
    """``value``, which has to be an object. Raises ``UnsupportedRequest``."""
    if not isinstance(value, dict):
        raise _mismatch(value, "an object", where)
    return value


def objects_at(value: Any, where: str, expected: str = "a list") -> Iterator[tuple[JsonObject, str]]:
    """The objects of a list, each with its path. Raises ``UnsupportedRequest``."""
    if not isinstance(value, list):
        raise _mismatch(value, expected, where)
    for index, item in enumerate(value):
        path = f"{where}[{index}]"
        yield object_at(item, path), path


def _mismatch(value: Any, expected: str, where: str) -> UnsupportedRequest:
    found = "missing or null" if value is None else f"of type {type(value).__name__}"
    return UnsupportedRequest(f"`{where}` has to be {expected}, but is {found}", where)
