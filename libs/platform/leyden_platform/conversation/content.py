"""The content of a message, in any protocol: a text, or a list of parts."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = ("text", "output_text", "input_text")
_OF_ONE_CALL = frozenset({"id", "call_id", "tool_use_id", "tool_call_id", "cache_control"})


def items(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects in a list; none if it is no list."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def mapping(value: object) -> Mapping[str, Any]:
    """The object, or an empty one if it is none."""
    return value if isinstance(value, dict) else {}


def string(value: object) -> str:
    """The text, or an empty one if it is none."""
    return value if isinstance(value, str) else ""


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    return "".join(string(part.get("text")) for part in items(content))


def shown(content: object) -> str:
    """The same, with JSON in place of what is no text, so that different contents differ."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(map(_part, content))
    return canonical(content)


def canonical(value: object) -> str:
    """JSON that is equal for equal values, however their fields are ordered; empty if there is none."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError):
        return ""


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return canonical(part)
    if part.get("type", "text") in _TEXTS and isinstance(part.get("text"), str):
        return str(part["text"])
    return canonical({name: value for name, value in part.items() if name not in _OF_ONE_CALL})
