"""What the registry accepts in a body."""

import json
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from leyden_registry.requests import MoveAliasRequest, PublishRequest

VALID: dict[str, Any] = {"version_id": str(UUID(int=1)), "artifact": "file:///models/1"}


def test_only_id_and_artifact_are_needed() -> None:
    request = PublishRequest.model_validate_json(json.dumps(VALID))
    assert (request.kind, request.parent, request.step, request.aliases) == ("full", None, None, [])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version_id": "7"}, "version_id"),
        ({"artifact": ""}, "artifact"),
        ({"kind": "quantised"}, "kind"),
        ({"kind": "lora"}, "needs the parent version"),
        ({"parent": -1}, "parent"),
        ({"parent": 2**31}, "parent"),
        ({"step": -1}, "step"),
        ({"run": "a run"}, "run"),
        ({"aliases": ["serving#1"]}, "aliases"),
        ({"typo": 1}, "typo"),
        ({"metrics": {"loss": float("nan")}}, "loss is nan, not a finite number"),
        ({"metrics": {"curve": [1.0, float("inf")]}}, r"curve\.1 is inf"),
        ({"metrics": {"note": "a\0b"}}, "note holds a NUL character"),
        ({"metrics": {"a\0b": 1}}, "NUL"),
        ({"artifact": "file:///a\0b"}, "NUL"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        PublishRequest.model_validate_json(json.dumps(VALID | change))


def test_a_move_names_a_version() -> None:
    assert MoveAliasRequest.model_validate_json('{"version": 3}').actor == "anonymous"
    with pytest.raises(ValidationError, match="version"):
        MoveAliasRequest.model_validate_json('{"version": "latest"}')
