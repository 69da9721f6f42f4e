"""Whether a call's arguments fit the JSON Schema that a tool declared, when both may be hostile.

Schemas come from agents. Nothing is ever fetched: references resolve inside the schema or not at all.
Patterns run in linear time, and work is bounded by counting it, so that a replay decides alike. What is no
valid schema, or too much work, asks nothing: nobody is blamed for it.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry

from leyden_platform.conversation import Call, canonical
from leyden_reward.air.guarded_keywords import budget, guarded

log = structlog.get_logger(__name__)

LONGEST_SCHEMA = 65_536
"""Characters of JSON; a longer schema is not checked."""
MOST_STEPS = 5_000
"""Keywords looked at, and members of their values, in one check of short arguments."""
CHEAP = 5_000
"""Arguments of so many characters more double the price of a step, because messages of errors quote them."""
MOST_STEPS_FOR_A_SCHEMA = 100_000
"""Steps for finding out whether a schema is one."""
MOST_STEPS_IN_ALL = 50_000
"""Steps for all calls of one trajectory; a new schema counts as one for each ``PER_STEP`` characters."""
PER_STEP = 8


class Schemas:
    """Checks the arguments of one trajectory's calls. What it decides does not depend on what is cached."""

    def __init__(self) -> None:
        self._left = MOST_STEPS_IN_ALL
        self._known: dict[int, tuple[object, str]] = {}
        self._paid: set[str] = set()

    def allow(self, schema: Mapping[str, Any], call: Call) -> bool:
        """Whether the arguments are valid, or nobody can tell."""
        if not schema or call.parsed is None:
            return True
        written = self._written(schema)
        steps = min(MOST_STEPS * CHEAP // (CHEAP + len(call.arguments)), self._left)
        validator = _prepared(written) if steps > 0 else None
        if validator is None:
            return True
        holds, taken = _holds(validator, call.parsed, steps)
        self._left -= taken
        return holds is not False

    def _written(self, schema: Mapping[str, Any]) -> str:
        if id(schema) not in self._known:  # which also keeps the schema, so that its id stays its own
            self._known[id(schema)] = (schema, canonical(schema))
        written = self._known[id(schema)][1]
        if written not in self._paid:
            self._paid.add(written)
            self._left -= len(written) // PER_STEP
        return written


@lru_cache(maxsize=512)
def _prepared(written: str) -> Validator | None:
    """A validator for the schema; None when it is none or too long."""
    if not 0 < len(written) <= LONGEST_SCHEMA:
        return None
    schema = json.loads(written)
    kind = validator_for(_dialect(schema), default=Draft202012Validator)
    schema = _in_one_dialect(schema)
    valid, _ = _holds(_META, schema, MOST_STEPS_FOR_A_SCHEMA)
    return _validator(kind, schema) if valid else None


def _validator(kind: type[Validator], schema: Any) -> Validator:
    return guarded(kind)(schema, registry=Registry())


def _holds(validator: Validator, value: Any, steps: int) -> tuple[bool | None, int]:
    """Whether the value is valid, None when that cannot be told; and how many steps it took."""
    with budget(steps) as left:
        try:
            return validator.is_valid(value), steps - left[0]
        except Exception as error:  # noqa: BLE001 - the seam: an agent's schema may make the library do anything
            log.debug("schema_not_checked", error=f"{type(error).__name__}: {error}"[:200])
            return None, steps - left[0]


def _dialect(schema: Any) -> Any:
    named = schema.get("$schema")
    return {"$schema": named} if isinstance(named, str) else {}


def _in_one_dialect(schema: Any) -> Any:
    """Without ``$schema``: the library would leave the guarded keywords wherever a part names its own."""
    if isinstance(schema, list):
        return [_in_one_dialect(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _in_one_dialect(value)
        for name, value in schema.items()
        if name != "$schema" or not isinstance(value, str)
    }


_META = _validator(Draft7Validator, _in_one_dialect(Draft7Validator.META_SCHEMA))
"""What is a schema by this draft is well-formed in the others too; its check is the quickest by far."""
