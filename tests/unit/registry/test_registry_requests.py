"""What the registry accepts in a body."""

import asyncio
import json
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import ValidationError
from starlette.types import Message

from leyden_registry import api
from leyden_registry.registry import Registry
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


@pytest.mark.parametrize("weight", ["0", "-1", "1.5", "NaN", "Infinity", '"much"'])
def test_a_share_of_traffic_lies_above_0_and_up_to_1(weight: str) -> None:
    assert MoveAliasRequest.model_validate_json('{"version": 3, "weight": 1}').weight == 1
    with pytest.raises(ValidationError, match="weight"):
        MoveAliasRequest.model_validate_json(f'{{"version": 3, "weight": {weight}}}')


async def test_a_body_cut_short_is_refused_not_logged_as_our_failure() -> None:
    assert await _status_for([{"type": "http.disconnect"}]) == 400


async def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BODY_TIMEOUT_S", 0.02)
    assert await _status_for([]) == 408


async def _status_for(messages: list[Message]) -> int:
    """The status of a publication whose body arrives as ``messages`` and then not at all."""
    app = api.registry_app(cast("Registry", None), max_body_bytes=1000)
    sent: list[Message] = []
    arriving = iter(messages)

    async def receive() -> Message:
        for message in arriving:
            return message
        await asyncio.Event().wait()
        raise AssertionError("never set")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/policies/p/versions",
        "headers": [],
        "query_string": b"",
    }
    await app(scope, receive, send)
    return int(sent[0]["status"])
