"""Pins and retirement over HTTP on a real Postgres: what is used stays, also when promoted meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from object_store import Bucket, environment, silent_server
from test_registry import Service, checkpoint, error_of

from leyden_platform.database import create_engine, migrate
from leyden_platform.objects import ObjectSettings, upload_artifact
from leyden_platform.settings import DatabaseSettings
from leyden_registry.inspection import ArtifactInspector
from leyden_registry.tables import SCHEMA

pytestmark = pytest.mark.postgres

VERSIONS = "/v1/policies/calculator/versions"


@pytest.fixture
async def service(database: DatabaseSettings, tmp_path: Path) -> AsyncIterator[Service]:
    """A registry with versions 0, 1 and 2; ``latest`` and ``serving`` name the last."""
    await migrate(database, "leyden_registry", SCHEMA)
    engine = create_engine(database)
    made = Service(engine, tmp_path / "models")
    for _ in range(3):
        await made.publish(aliases=["latest", "serving"])
    yield made
    await made.http.aclose()
    await engine.dispose()


async def retire(service: Service, version: int, **body: Any) -> httpx.Response:
    return await service.http.post(f"{VERSIONS}/{version}/retire", json=body)


async def test_a_retired_version_says_so_and_cannot_be_served_again(service: Service) -> None:
    answer = await retire(service, 0, actor="learner", reason="keep_weights 2")
    assert answer.status_code == 200
    assert answer.json()["retired_at"]
    assert (await retire(service, 0)).json() == answer.json()
    status, kind, message = error_of(await service.move("serving", 0))
    assert (status, kind) == (409, "retired")
    assert "calculator@0 was retired at" in message
    assert "import the weights again" in message
    pinned = await service.http.put(f"{VERSIONS}/0/pins/paper")
    assert error_of(pinned)[:2] == (409, "retired")
    (change,) = (await service.http.get("/v1/policies/calculator/changes")).json()["changes"]
    assert (change["version"], change["change"], change["actor"], change["reason"]) == (
        0, "retired", "learner", "keep_weights 2",
    )  # fmt: skip


async def test_what_an_alias_names_stays(service: Service) -> None:
    await service.move("canary", 1, weight=0.1)
    assert error_of(await retire(service, 1))[:2] == (409, "in_use")
    assert error_of(await retire(service, 2))[:2] == (409, "in_use")
    await service.move("canary", 2)
    assert (await retire(service, 1)).status_code == 200


async def test_a_pin_holds_until_its_last_holder_lets_go(service: Service) -> None:
    pin = f"{VERSIONS}/1/pins"
    for holder in ("paper", "run:tuesday", "paper"):
        answer = await service.http.put(f"{pin}/{holder}", json={"actor": "ada", "reason": "figure 3"})
        assert answer.status_code == 200
    assert answer.json()["pins"] == ["paper", "run:tuesday"]
    assert (await service.http.get(f"{VERSIONS}/1")).json()["pins"] == ["paper", "run:tuesday"]
    listed = (await service.http.get(VERSIONS)).json()["versions"]
    assert [version["pins"] for version in listed] == [[], ["paper", "run:tuesday"], []]
    _, _, message = error_of(await retire(service, 1))
    assert message == "calculator@1 is pinned by paper, run:tuesday; unpin it first"
    await service.http.delete(f"{pin}/paper")
    assert error_of(await retire(service, 1))[1] == "in_use"
    await service.http.delete(f"{pin}/run:tuesday")
    await service.http.delete(f"{pin}/nobody")
    assert (await retire(service, 1)).status_code == 200
    changes = (await service.http.get("/v1/policies/calculator/changes?limit=10")).json()["changes"]
    assert [(change["change"], change["holder"]) for change in changes] == [
        ("retired", None), ("unpinned", "run:tuesday"), ("unpinned", "paper"),
        ("pinned", "run:tuesday"), ("pinned", "paper"),
    ]  # fmt: skip


async def test_the_base_of_an_adapter_stays(service: Service) -> None:
    folder = service.root / "adapter"
    checkpoint(folder)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    adapter = {"artifact": folder.as_uri(), "kind": "lora"}
    await service.publish(**adapter, parent=1)
    assert "adapters calculator@3 apply to" in error_of(await retire(service, 1))[2]
    assert (await retire(service, 0)).status_code == 200
    refused = error_of(await service.publish(**adapter, parent=0))
    assert refused[:2] == (422, "invalid_reference")


async def test_what_was_served_until_a_moment_ago_stays(service: Service) -> None:
    service.registry._retire_after_s = 600
    for version in (0, 1):
        assert "LEYDEN_REGISTRY_RETIRE_AFTER_S" in error_of(await retire(service, version))[2]


async def test_promotion_and_retirement_at_once_never_both_win(service: Service) -> None:
    """Whichever comes first, what an alias names is not retired."""
    outcomes = set()
    for attempt in range(20):
        version = 3 + attempt
        await service.publish(aliases=["latest"])
        await service.publish(aliases=["latest"])
        race = [service.move("serving", version), retire(service, version)]
        moved, retired = await asyncio.gather(*(race if attempt % 2 else race[::-1]))
        if not attempt % 2:
            moved, retired = retired, moved
        assert {moved.status_code, retired.status_code} == {200, 409}
        outcomes.add(moved.status_code)
        serving = (await service.http.get("/v1/policies/calculator")).json()["aliases"]["serving"]
        found = (await service.http.get(f"{VERSIONS}/{serving}")).json()
        assert found["retired_at"] is None
    assert outcomes == {200, 409}


@pytest.mark.parametrize("path", ["9/retire", "nine/retire"])
async def test_what_does_not_exist_is_not_retired(service: Service, path: str) -> None:
    assert error_of(await service.http.post(f"{VERSIONS}/{path}"))[:2] == (404, "not_found")


async def test_a_version_in_a_store_is_registered_without_its_folder(
    service: Service, bucket: Bucket, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    checkpoint(folder)
    local = (await service.publish(artifact=checkpoint(service.root / "same"))).json()
    target = bucket.folder("calculator/step-1")
    await upload_artifact(folder, target)
    inspector = ArtifactInspector(None, bucket.settings, url=bucket.url, timeout_s=30, concurrency=1)
    service.registry._inspector = inspector
    answer = await service.publish(artifact=f"{target.url}/")
    assert answer.status_code == 201
    assert answer.json()["artifact"] == target.url
    for digest in ("digest", "tokenizer_digest", "chat_template_digest"):
        assert answer.json()[digest] == local[digest]
    status, kind, message = error_of(await service.publish(artifact=f"{bucket.url}/calculator/step-2"))
    assert (status, kind) == (422, "artifact_refused")
    assert "nothing was uploaded whole" in message
    for outside in ("s3://other/calculator/step-1", folder.as_uri()):
        assert "where artifacts are kept" in error_of(await service.publish(artifact=outside))[2]


async def test_a_store_that_never_answers_is_a_gateway_timeout(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = ObjectSettings(allow_http=True, request_timeout_s=0.2, max_retries=0)
    service.registry._inspector = ArtifactInspector(None, objects, timeout_s=30, concurrency=1)
    with silent_server() as endpoint:
        for name, value in environment(endpoint).items():
            monkeypatch.setenv(name, value)
        status, kind, message = error_of(await service.publish(artifact="s3://bucket/a"))
    assert (status, kind) == (504, "artifact_timed_out")
    assert "s3://bucket/a" in message
