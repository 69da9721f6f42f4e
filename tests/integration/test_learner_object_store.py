"""A learner whose checkpoints lie in a real object store, over the real registry: no volume is shared."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from learner_harness import BATCH, World, running, train, until
from object_store import Bucket, silent_server
from safetensors.torch import load_file
from sqlalchemy.ext.asyncio import AsyncEngine
from test_learner_loop import same, weights

from leyden_learner.app import build_learner
from leyden_learner.learner import Learner
from leyden_platform.artifacts import TRAINER_STATE
from leyden_platform.database import create_engine, migrate
from leyden_platform.objects import ArtifactCache, look_into, upload_artifact
from leyden_platform.settings import DatabaseSettings
from leyden_registry.api import registry_app
from leyden_registry.inspection import ArtifactInspector
from leyden_registry.registry import Registry
from leyden_registry.tables import SCHEMA

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


class Remote:
    """A world whose registry is real and whose artifacts lie in a bucket."""

    def __init__(self, world: World, bucket: Bucket, engine: AsyncEngine) -> None:
        self.world, self.bucket = world, bucket
        inspector = ArtifactInspector(None, bucket.settings, timeout_s=60, concurrency=2)
        app = registry_app(Registry(engine, inspector, lambda: None), max_body_bytes=10**6)
        self.transport = httpx.ASGITransport(app)
        self.http = httpx.AsyncClient(transport=self.transport, base_url="http://registry")
        self.path = f"/v1/policies/{world.policy}"

    def learner(self, machine: str, **changes: Any) -> Learner:
        """A learner on a machine with a disk of its own."""
        place: dict[str, Any] = {
            "checkpoint_dir": self.world.folder / machine,
            "checkpoint_url": f"{self.bucket.url}/checkpoints",
            "objects": self.bucket.settings,
            "unfinished_after_s": 0,
        }
        return build_learner(self.world.settings(**(place | changes)), self.transport)

    async def versions(self) -> list[dict[str, Any]]:
        """What the registry knows, oldest first."""
        answer = (await self.http.get(f"{self.path}/versions")).json()
        return list(answer["versions"][::-1])

    async def train(self, machine: str, steps: int, **changes: Any) -> None:
        """Until this many steps are trained."""
        learner = self.learner(machine, max_steps=steps, **changes)
        async with running(learner) as task:
            await until(lambda: self.world.count("leyden_learner_version") >= steps, task)
            await until(lambda: learner.not_ready() is None, task)

    def stored(self, version: dict[str, Any]) -> str:
        """The name of a version's checkpoint."""
        return str(version["artifact"]).rsplit("/", 1)[-1]


@pytest.fixture
async def remote(world: World, bucket: Bucket, database: DatabaseSettings) -> AsyncIterator[Remote]:
    """The first version lies in the bucket, and nowhere else."""
    await migrate(database, "leyden_registry", SCHEMA)
    engine = create_engine(database)
    made = Remote(world, bucket, engine)
    target = bucket.folder("imported/first")
    await upload_artifact(world.first, target)
    body = {"version_id": str(uuid4()), "artifact": target.url, "aliases": ["latest", "serving"]}
    (await made.http.post(f"{made.path}/versions", json=body)).raise_for_status()
    yield made
    await made.http.aclose()
    await engine.dispose()


@pytest.fixture
def world(make_world: Any) -> World:
    made: World = make_world()
    return made


@pytest.mark.parametrize(
    ("file", "parent", "changes"),
    [
        ("model.safetensors", 2, {"kl_coefficient": 0.1}),
        ("adapter_model.safetensors", 0, {"lora_rank": 4, "publish": "adapter"}),
    ],
)
async def test_a_new_machine_with_an_empty_disk_goes_on_where_the_last_one_stopped(
    remote: Remote, make_world: Any, tmp_path: Path, file: str, parent: int, changes: dict[str, Any]
) -> None:
    world, alone = remote.world, make_world()
    for each in (world, alone):
        await each.publish(*(each.sample(index) for index in range(3 * BATCH)))
    await train(alone, 3, **changes)
    await remote.train("first machine", 2, **changes)
    shutil.rmtree(world.folder / "first machine")
    await remote.train("second machine", 3, **changes)
    newest = (await remote.versions())[-1]
    assert (newest["step"], newest["parent"]) == (3, parent)
    cache = ArtifactCache(tmp_path / "server", remote.bucket.settings)
    served = await cache.folder(newest["artifact"], newest["digest"])
    assert same(load_file(served / file), weights(alone, file))


async def test_a_checkpoint_says_what_its_step_was(remote: Remote) -> None:
    world = remote.world
    await world.publish(*(world.sample(index) for index in range(BATCH)))
    await remote.train("machine", 1)
    (checkpoint,) = await world.checkpoints()
    folder = remote.bucket.folder(f"checkpoints/{world.policy}/default/{checkpoint.name}")
    record = json.loads(await folder.read(f"{TRAINER_STATE}/step.json"))
    assert record["step"] == 1
    assert record["offsets"] == {str(key): value for key, value in checkpoint.offsets.items()}
    assert record["metrics"] == checkpoint.metrics
    assert record["version_id"] == str(checkpoint.version_id)
    assert record["base"] == f"{remote.bucket.url}/imported/first"
    assert (await look_into(folder))[0].digest == checkpoint.digest


async def test_old_versions_leave_the_store_but_for_what_is_served_or_pinned(remote: Remote) -> None:
    world = remote.world
    await world.publish(*(world.sample(index) for index in range(5 * BATCH)))
    await remote.train("machine", 2)
    first, second = (await remote.versions())[1:]
    canary = {"version": first["version"], "weight": 0.1}
    (await remote.http.put(f"{remote.path}/aliases/canary", json=canary)).raise_for_status()
    pin = f"{remote.path}/versions/{second['version']}/pins/paper"
    (await remote.http.put(pin)).raise_for_status()
    await remote.train("machine", 5, keep_weights=1)
    versions = await remote.versions()
    assert [bool(version["retired_at"]) for version in versions] == [False, False, False, True, True, False]
    left = await remote.bucket.folder(f"checkpoints/{world.policy}/default").folders()
    assert left == [remote.stored(version) for version in (versions[1], versions[2], versions[5])]
    back = await remote.http.put(f"{remote.path}/aliases/serving", json={"version": 3})
    assert (back.status_code, back.json()["error"]["type"]) == (409, "retired")
    assert versions[0]["pins"] == ["run:default"]
    assert world.count("leyden_learner_retention_total", outcome="deleted") == 2


async def test_a_store_that_stops_answering_is_waited_for(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = remote.world
    quick = remote.bucket.settings.model_copy(update={"request_timeout_s": 0.5, "max_retries": 0})
    learner = remote.learner("machine", max_steps=1, objects=quick)
    async with running(learner) as task:
        await until(lambda: learner.not_ready() is None, task)
        with silent_server() as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            await world.publish(*(world.sample(index) for index in range(BATCH)))
            await until(lambda: "timed out" in (learner.not_ready() or ""), task)
        assert "artifact store" in (learner.not_ready() or "")
        assert world.count("leyden_learner_retries_total", what="artifact store") >= 1
        monkeypatch.setenv("AWS_ENDPOINT_URL", remote.bucket.endpoint)
        await until(lambda: world.count("leyden_learner_version") == 1, task)
    (checkpoint,) = await world.checkpoints()
    assert checkpoint.version == 1
