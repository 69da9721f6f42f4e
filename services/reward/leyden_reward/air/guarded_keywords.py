"""The keywords of JSON Schema, made safe: each step is counted, and patterns run on RE2.

RE2 takes linear time for every pattern, and refuses those that cannot (back references, look-around); these
ask nothing. ``unevaluatedProperties`` and ``unevaluatedItems`` are not looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any, cast

import re2
from jsonschema import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from leyden_platform.conversation import canonical
from leyden_reward.multiples import multiple_of

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
LONGEST_PATTERN = 2_048

_left: ContextVar[list[int]] = ContextVar("steps left")
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20


class TooMuch(Exception):
    """A check takes more steps than it may."""


@contextmanager
def budget(steps: int) -> Iterator[list[int]]:
    """Raise ``TooMuch`` in what is done here when it takes more steps; the one number is what is left."""
    left = [steps]
    token = _left.set(left)
    try:
        yield left
    finally:
        _left.reset(token)


def spend(steps: int) -> None:
    """Count steps against the budget. Raises ``TooMuch``."""
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise TooMuch


@cache
def guarded(kind: type[Validator]) -> type[Validator]:
    """The same draft with guarded keywords."""
    keywords = {
        **kind.VALIDATORS,
        **{name: keyword for name, keyword in _OWN.items() if name in kind.VALIDATORS},
    }
    counted = {name: _counted(keyword) for name, keyword in keywords.items()}
    return cast("type[Validator]", extend(kind, counted))  # type: ignore[no-untyped-call]


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        spend(1 + (len(value) if isinstance(value, list | dict) else 0))
        yield from keyword(validator, value, instance, schema) or ()

    return check


def _pattern(validator: Any, pattern: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and _found(pattern, instance) is False:
        yield ValidationError(f"does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, schema in patterns.items():
        spend(len(instance))
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, schema: Any, instance: Any, whole: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    declared, patterns = whole.get("properties", {}), whole.get("patternProperties", {})
    spend(len(instance) * len(patterns))
    for name, value in instance.items():
        if name in declared or any(_found(pattern, name) is not False for pattern in patterns):
            continue
        if validator.is_type(schema, "object"):
            yield from validator.descend(value, schema, path=name)
        elif schema is False:
            yield ValidationError(f"{name!r} was unexpected")


def _unique_items(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if wanted and validator.is_type(instance, "array") and len(set(map(canonical, instance))) < len(instance):
        yield ValidationError("has non-unique elements")


def _nothing(*_: Any) -> Iterator[ValidationError]:
    return iter(())


_OWN: dict[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "multipleOf": multiple_of,
    "unevaluatedProperties": _nothing,
    "unevaluatedItems": _nothing,
}


def _found(pattern: Any, text: str) -> bool | None:
    """Whether the pattern matches anywhere; None when it is none, or one that RE2 does not know."""
    compiled = _compiled(pattern)
    return None if compiled is None else compiled.search(text) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    try:
        return re2.compile(pattern, _OPTIONS) if len(pattern) <= LONGEST_PATTERN else None
    except re2.error:
        return None
