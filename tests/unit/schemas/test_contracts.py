"""The committed contracts are the code's, and an incompatible change is caught."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leyden_platform.messaging import contracts
from leyden_schemas import Topics
from leyden_schemas.compatibility import incompatibilities, json_schemas

COMMITTED = Path(__file__).parents[3] / "docs" / "contracts"
TASK = json_schemas()[Topics.TASKS.name]


@pytest.mark.parametrize("name", sorted(contracts.documents()))
def test_committed_documents_are_current(name: str) -> None:
    committed, current = json.loads((COMMITTED / name).read_text()), contracts.documents()[name]
    if name.endswith(".schema.json"):
        assert incompatibilities(committed, current) == []
    assert (COMMITTED / name).read_text() == contracts.render(current), "run: make contracts"


def change(edit: Callable[[dict[str, Any]], Any]) -> list[str]:
    """What is incompatible about an edited task schema."""
    edited = copy.deepcopy(TASK)
    edit(edited)
    return incompatibilities(TASK, edited)


def test_nothing_changed_is_compatible() -> None:
    assert change(lambda schema: None) == []


def test_a_new_optional_field_is_compatible() -> None:
    assert (
        change(lambda schema: schema["properties"].update(priority={"type": "integer", "default": 0})) == []
    )


def test_better_prose_is_compatible() -> None:
    assert change(lambda schema: schema["properties"]["input"].update(description="What to do.")) == []


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda s: s["properties"].pop("split"), "field 'split' was removed"),
        (lambda s: s["required"].append("reference"), "field 'reference' became required"),
        (lambda s: s["required"].remove("policy"), "field 'policy' is no longer required"),
        (lambda s: s["properties"]["samples"].update(type="string"), "'integer' became 'string'"),
        (lambda s: s["properties"]["samples"].update(maximum=10), "256 became 10"),
        (lambda s: s["$defs"]["Split"]["enum"].append("test"), "enum"),
        (lambda s: s["$defs"]["Limits"]["properties"].pop("timeout_s"), "field 'timeout_s' was removed"),
        (lambda s: s.update(additionalProperties=True), "additionalProperties"),
    ],
)
def test_anything_else_is_not(edit: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    found = change(edit)
    assert len(found) >= 1
    assert any(complaint in line for line in found)


def test_a_lost_variant_of_a_union_is_caught() -> None:
    events = json_schemas()[Topics.EVENTS.name]
    edited = copy.deepcopy(events)
    edited["oneOf"].pop()
    assert incompatibilities(events, edited)


def test_writing_refuses_an_incompatible_overwrite(tmp_path: Path) -> None:
    contracts.write(tmp_path)
    path = tmp_path / f"{Topics.TASKS.name}.schema.json"
    stale = json.loads(path.read_text())
    stale["properties"]["gone"] = {"type": "string"}
    path.write_text(json.dumps(stale))
    with pytest.raises(contracts.IncompatibleChange, match="field 'gone' was removed"):
        contracts.write(tmp_path)
    assert "gone" in path.read_text()
