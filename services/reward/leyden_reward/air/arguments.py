"""Whether a call's arguments fit the JSON Schema a tool declared, as far as one level deep.

Deliberately not a full validator: schemas come from agents, and following their references or running
their patterns would let them make the service fetch or loop.
"""

from collections.abc import Mapping
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def violations(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> int:
    """How many arguments are missing, unexpected, of a wrong type or outside their enum."""
    properties = _mapping(schema.get("properties"))
    required = schema.get("required")
    missing = [name for name in required if name not in arguments] if isinstance(required, list) else []
    closed = schema.get("additionalProperties") is False
    unexpected = [name for name in arguments if closed and name not in properties]
    wrong = [name for name, value in arguments.items() if not _fits(_mapping(properties.get(name)), value)]
    return len(missing) + len(unexpected) + len(wrong)


def _fits(schema: Mapping[str, Any], value: object) -> bool:
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        return False
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else declared if isinstance(declared, list) else []
    known = [kind for kind in kinds if isinstance(kind, str) and kind in _TYPES]
    return not known or any(_is(value, kind) for kind in known)


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
