"""Arguments against schemas that are honest, hostile or no schemas at all."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.conversation import Call
from leyden_reward.air import json_schemas
from leyden_reward.air.guarded_keywords import TooMuch, budget, spend
from leyden_reward.air.json_schemas import Schemas

PATIENT_S = 30.0
"""Far more than anything here takes, and far less than what hostile schemas would take unguarded."""


def call(arguments: Any) -> Call:
    written = json.dumps(arguments)
    return Call("f", written, arguments, ("f", written))


def allowed(schema: Any, arguments: Any) -> bool:
    return Schemas().allow(schema, call(arguments))


def a(schema: Any) -> dict[str, Any]:
    """A schema for the argument ``a``."""
    return {"type": "object", "properties": {"a": schema}}


NESTED = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {"$ref": "#/$defs/item"},
        },
        "mode": {"enum": ["fast", "slow"]},
        "note": {"anyOf": [{"type": "string", "pattern": "^[a-z]+$"}, {"type": "null"}]},
    },
    "required": ["items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "type": "object",
            "properties": {"price": {"type": "number", "minimum": 0}},
            "required": ["price"],
        }
    },
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"items": [{"price": 1}], "mode": "fast", "note": None}, True),
        ({"items": [{"price": 1.5}], "note": "ok"}, True),
        ({}, False),
        ({"items": []}, False),
        ({"items": [{"price": -1}]}, False),
        ({"items": [{"price": "1"}]}, False),
        ({"items": [{}]}, False),
        ({"items": [{"price": 1}], "mode": "idle"}, False),
        ({"items": [{"price": 1}], "note": "NO"}, False),
        ({"items": [{"price": 1}], "more": 1}, False),
    ],
)
def test_all_of_json_schema_counts_at_any_depth(arguments: Any, expected: bool) -> None:
    assert allowed(NESTED, arguments) is expected


@pytest.mark.parametrize(
    ("schema", "arguments", "expected"),
    [
        (a({"type": "integer"}), {"a": 2.0}, True),
        (a({"type": "integer"}), {"a": True}, False),
        (a({"type": ["null", "number"]}), {"a": None}, True),
        (a({"type": "array", "uniqueItems": True}), {"a": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]}, False),
        (a({"type": "array", "uniqueItems": True}), {"a": [1, "1", True]}, True),
        (
            {"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
            {"x-a": 1},
            True,
        ),
        (
            {"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
            {"x-a": ""},
            False,
        ),
        ({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False}, {"y": 1}, False),
        ({"additionalProperties": {"type": "integer"}}, {"y": "1"}, False),
        ({"patternProperties": {"(?=x)": {}}, "additionalProperties": False}, {"y": 1}, True),
        (a({"pattern": "^(?!x)"}), {"a": "x"}, True),
        (a({"format": "email"}), {"a": "no"}, True),
        (a({"multipleOf": 0.01}), {"a": 19.99}, True),
        (a({"multipleOf": 0.01}), {"a": 19.995}, False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **a({"const": 1})}, {"a": 2}, False),
        ({"$schema": "http://json-schema.org/draft-04/schema#", **a({"minimum": 1})}, {"a": 0}, False),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", **a({"items": [{"type": "string"}]})},
            {"a": [1]},
            False,
        ),
        (
            {"$schema": "http://example.com/mine", **a({"prefixItems": [{"type": "string"}]})},
            {"a": [1]},
            False,
        ),
        ({"properties": {"$schema": {"type": "integer"}}}, {"$schema": "no"}, False),
        ({"unevaluatedProperties": False}, {"a": 1}, True),
    ],
)
def test_drafts_and_single_keywords(schema: Any, arguments: Any, expected: bool) -> None:
    assert allowed(schema, arguments) is expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "any"},
        {"required": "a"},
        {"properties": [1]},
        a({"type": 5}),
        a({"minimum": "1"}),
        a({"$ref": "#/nowhere"}),
        a({"$ref": "other.json"}),
        a({"pattern": 5}),
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"enum": [{"b": 1}], "description": "x" * json_schemas.LONGEST_SCHEMA},
        a({"multipleOf": 0}),
    ],
)
def test_what_is_no_schema_asks_nothing(schema: Any) -> None:
    assert allowed(schema, {"a": 1})


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """What was asked of a server on this machine."""
    lines: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines.append(self.rfile.readline().decode())

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        lines.append(f"http://127.0.0.1:{server.server_address[1]}")
        yield lines
        server.shutdown()
        thread.join()


def test_references_are_never_fetched(asked: list[str]) -> None:
    base = asked.pop()
    for name in ("$ref", "$dynamicRef", "$recursiveRef", "$schema", "$id"):
        allowed(a({name: f"{base}/{name}", "type": "integer"}), {"a": 1})
        allowed({name: f"{base}/{name}", **a({"$ref": "x.json"})}, {"a": 1})
    assert asked == []


def doubling(levels: int) -> dict[str, Any]:
    """A schema that looks at everything twice on each level."""
    levels_of = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**levels_of, f"l{levels}": {}}, "$ref": "#/$defs/l0"}


HOSTILE = [
    (a({"pattern": "^(a+)+$"}), {"a": "a" * 50_000 + "b"}),
    ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 5_000 + "b": 1}),
    (a({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}), {"a": "a" * 99 + "b"}),
    (a({"pattern": "(" * 1_000 + ")" * 1_000}), {"a": "x"}),
    (a({"pattern": "a{1000}{1000}"}), {"a": "a"}),
    (doubling(60), {"a": 1}),
    (a({"uniqueItems": True}), {"a": [{"x": n} for n in range(20_000)]}),
    (a({"anyOf": [{"enum": list(range(100))}] * 100}), {"a": [1] * 100}),
    (a({"anyOf": [{"type": "integer", "minimum": n} for n in range(1_000)]}), {"a": "x" * 1_000_000}),
    ({"required": [{"x": n} for n in range(6_000)]}, {"a": 1}),
    (a({"multipleOf": 1e-308}), {"a": 2**62}),
]


@pytest.mark.parametrize(("schema", "arguments"), HOSTILE)
def test_hostile_schemas_come_to_an_end(schema: Any, arguments: Any) -> None:
    began = time.monotonic()
    allowed(schema, arguments)
    assert time.monotonic() - began < PATIENT_S


def test_work_is_counted_and_bounded_for_a_whole_trajectory() -> None:
    schemas = Schemas()
    for _ in range(1_000):
        assert schemas.allow(doubling(60), call({"a": 1}))
    assert not Schemas().allow(a({"type": "integer"}), call({"a": ""}))
    assert schemas.allow(a({"type": "integer"}), call({"a": ""}))  # nothing is left to find it out with


def test_what_is_decided_does_not_depend_on_shared_objects() -> None:
    shared, copies = Schemas(), Schemas()
    schema = a({"type": "integer"})
    calls = [call({"a": "" if n % 2 else n}) for n in range(500)]
    copied = [copies.allow(json.loads(json.dumps(schema)), one) for one in calls]
    assert [shared.allow(schema, one) for one in calls] == copied == [n % 2 == 0 for n in range(500)]


def test_a_budget_is_what_may_be_spent() -> None:
    with budget(3) as left:
        spend(2)
        assert left == [1]
        with budget(1):
            spend(1)
        with pytest.raises(TooMuch):
            spend(2)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = [
    "type",
    "properties",
    "required",
    "enum",
    "items",
    "$ref",
    "$defs",
    "pattern",
    "patternProperties",
]
KEYWORDS += [
    "additionalProperties",
    "anyOf",
    "allOf",
    "not",
    "if",
    "then",
    "minimum",
    "multipleOf",
    "$schema",
]
KEYWORDS += ["uniqueItems", "contains", "propertyNames", "$id", "$anchor", "dependentSchemas", "const", "a"]
schemas = st.dictionaries(
    st.sampled_from(KEYWORDS),
    st.recursive(
        values | st.sampled_from(["object", "string", "#", "#/$defs/a", "^a", "(", "integer"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


@given(schemas, st.dictionaries(st.sampled_from(["a", "b"]), values, max_size=2))
def test_any_json_may_stand_for_a_schema(schema: Any, arguments: Any) -> None:
    assert allowed(schema, arguments) in (True, False)
