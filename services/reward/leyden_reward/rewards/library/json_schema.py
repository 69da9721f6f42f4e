"""Is the output JSON of a given shape?"""

import json
import re
from functools import cache
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import Unresolvable

from leyden_reward.multiples import multiple_of
from leyden_reward.rewards.library.texts import TaskFault, code_in, reference_of
from leyden_schemas import RewardTerm, Trajectory
from leyden_schemas.rewards import JsonSchema, params_of

DEEPEST = 100
"""Levels of nesting beyond which an answer is wrong, whatever the schema says."""


def json_schema(trajectory: Trajectory) -> list[RewardTerm]:
    """1 when the output, JSON text (fenced or not) or a value, is valid, else 0 with the fault as feedback.

    The schemas of JSON Schema itself may be referred to; other documents are never fetched. Raises
    ``TaskFault`` for what is no schema.
    """
    schema = params_of(trajectory.task.reward, JsonSchema).schema_
    schema = reference_of(trajectory) if schema is None else schema
    problem = problem_of(trajectory.output, schema)
    return [RewardTerm(name="reward", value=float(problem is None), feedback=problem)]


def problem_of(output: Any, schema: Any) -> str | None:
    """What is wrong with the output, None if nothing. Raises ``TaskFault`` for what is no schema."""
    if not isinstance(schema, dict | bool):
        raise TaskFault(f"json_schema: {schema!r} is no schema; give an object as params.schema")
    kind: Any = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise TaskFault(f"json_schema: the schema is wrong: {error.message[:500]}") from None
    try:
        value = _read(output) if isinstance(output, str) else output
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"[:500]
    if _deeper_than(value, DEEPEST):
        return f"nested deeper than {DEEPEST} levels"
    try:
        fault = next(_exact(kind)(schema, registry=REGISTRY).iter_errors(value), None)
    except (Unresolvable, RecursionError) as error:
        raise TaskFault(f"json_schema: the schema refers to what is not in it: {error}"[:500]) from None
    except re.error as error:
        raise TaskFault(f"json_schema: a pattern of the schema is none: {error}"[:500]) from None
    except (ArithmeticError, ValueError):  # 1e400 is JSON, and infinite here
        return "a number in it is too large"
    return None if fault is None else f"{fault.json_path}: {fault.message}"[:500]


@cache
def _exact(kind: Any) -> Any:
    return extend(kind, {"multipleOf": multiple_of})  # type: ignore[no-untyped-call]


def _read(text: str) -> Any:
    return json.loads(code_in(text, "json"), parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)
