"""Whether a contract changed in a way that its readers or writers would notice.

A schema changes only by adding optional fields; anything else is a new topic version. The functions compare
JSON Schemas as ``json_schemas`` makes them.
"""

from typing import Any

from leyden_schemas.codec import ADAPTERS

Schema = dict[str, Any]
_PROSE = {"title", "description", "default", "examples"}


def json_schemas() -> dict[str, Schema]:
    """The JSON Schema (2020-12) of every topic's value, by topic name."""
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema"} | adapter.json_schema()
        for name, adapter in ADAPTERS.items()
    }


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """What ``new`` changed beyond adding optional fields; empty when it is compatible."""
    return _compare(old, new, old.get("$defs", {}), new.get("$defs", {}), "", set())


def _compare(
    old: Any, new: Any, old_defs: Schema, new_defs: Schema, where: str, seen: set[tuple[str, str]]
) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where}: {old!r} became {new!r}"]
    if "$ref" in old and "$ref" in new:
        pair = (old["$ref"], new["$ref"])
        if pair in seen:
            return []
        seen.add(pair)
    old, new = _resolve(old, old_defs), _resolve(new, new_defs)
    found = _compare_fields(old, new, old_defs, new_defs, where, seen)
    for keyword in sorted((set(old) | set(new)) - _PROSE - {"properties", "required", "$defs", "$schema"}):
        here = f"{where}/{keyword}"
        before, after = old.get(keyword), new.get(keyword)
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for i, (one, other) in enumerate(zip(before, after, strict=True)):
                found += _compare(one, other, old_defs, new_defs, f"{here}/{i}", seen)
        elif keyword != "discriminator":
            found += _compare(before, after, old_defs, new_defs, here, seen)
    return found


def _compare_fields(
    old: Schema, new: Schema, old_defs: Schema, new_defs: Schema, where: str, seen: set[tuple[str, str]]
) -> list[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    found = [f"{where}: field {name!r} was removed" for name in before if name not in after]
    newly_required = set(new.get("required", [])) - set(old.get("required", []))
    found += [f"{where}: field {name!r} became required" for name in sorted(newly_required)]
    no_longer = set(old.get("required", [])) - set(new.get("required", []))
    found += [f"{where}: field {name!r} is no longer required" for name in sorted(no_longer & set(after))]
    for name in before:
        if name in after:
            found += _compare(before[name], after[name], old_defs, new_defs, f"{where}/{name}", seen)
    return found


def _resolve(schema: Schema, definitions: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    target: Schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return target
