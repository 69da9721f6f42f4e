"""The arguments of a tool call: text to the model, an object to the Messages protocol."""

import json
from collections.abc import Iterable
from math import isfinite
from typing import Any, NoReturn

from leyden_schemas import JsonObject

RAW_ARGUMENTS = "raw_arguments"
"""The only key of a ``tool_use`` input whose arguments are not a JSON object; its value is their text.

The protocol has no room for such arguments. A caller that sends the block back sends them in this form too:
servers read the arguments of earlier calls as JSON and would refuse, or forget, the text as it was sampled.
"""

_DEEPEST = 100
"""Levels of nesting in arguments; encoders give up a little beyond twice as many."""


def tool_input(arguments: str) -> JsonObject:
    """A call's arguments as an object; ``RAW_ARGUMENTS`` tells of those that are none. No text is ``{}``."""
    if not arguments.strip():
        return {}
    value = json_object(arguments)
    return {RAW_ARGUMENTS: arguments} if value is None else value


def json_object(written: str) -> JsonObject | None:
    """The object that ``written`` is in JSON, or None if it is anything else, or could not be sent on."""
    try:
        value = json.loads(written, parse_int=_int, parse_float=_float, parse_constant=_refuse)
        if "\\u" in written:  # half of a surrogate pair can be read, but not written
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    deep = written.count("[") + written.count("{") > _DEEPEST and _deeper_than(value, _DEEPEST)
    return None if deep else value


def _deeper_than(value: JsonObject, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels):
        level = [child for item in level for child in _children(item)]
    return any(isinstance(item, dict | list) for item in level)


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def _int(digits: str) -> int:
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else _refuse(digits)


def _float(digits: str) -> float:
    value = float(digits)
    return value if isfinite(value) else _refuse(digits)


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"{number} cannot be sent as JSON everywhere")
