"""Adapters from the learner to the answers of the built-in engine, by way of the real registry and topic."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import torch
from learner_harness import BATCH, DEADLINE_S, World, running, train, until
from test_inference_swap import check_logprobs
from transformers import AutoModelForCausalLM

from leyden_inference.app import build
from leyden_inference.settings import InferenceSettings
from leyden_learner.app import build_learner
from leyden_learner.learner import Learner
from leyden_learner.lora_files import OtherAdapters
from leyden_platform.database import Order, OutboxRelay, create_engine, migrate
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.service import run_components
from leyden_platform.settings import DatabaseSettings, OpsSettings
from leyden_registry.api import registry_app
from leyden_registry.inspection import ArtifactInspector
from leyden_registry.registry import Registry
from leyden_registry.tables import SCHEMA, outbox
from leyden_schemas import Topics, TrainingSample

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(300)]

SEED = Path(__file__).parents[2] / "examples" / "calculator" / "seed"
ADAPTERS: dict[str, Any] = {"lora_rank": 4, "publish": "adapter"}
FAR: dict[str, Any] = {"max_kl": 1e6, "max_ratio": 1e30}
"""The seed model would not have sampled what these tests let it learn from."""


class Loop:
    """A world whose registry is real and announces what it knows."""

    def __init__(self, world: World, registry: Registry) -> None:
        self.world = world
        self.transport = httpx.ASGITransport(registry_app(registry, max_body_bytes=10**6))
        self.http = httpx.AsyncClient(transport=self.transport, base_url="http://registry")
        self.path = f"/v1/policies/{world.policy}"

    def learner(self, **changes: Any) -> Learner:
        """A learner over the real registry."""
        return build_learner(self.world.settings(**changes), self.transport)

    async def publish(self, count: int, **changes: Any) -> None:
        """Samples for so many steps."""
        made: list[TrainingSample] = [
            self.world.sample(index, rollout_id=uuid4(), **changes) for index in range(count * BATCH)
        ]
        await self.world.publish(*made)

    async def train(self, newest: int, **changes: Any) -> None:
        """Until the learner's newest version is this one; a step in hand, retention included, is finished."""
        async with running(self.learner(**changes)) as task:
            await until(lambda: self.world.count("leyden_learner_version") == newest, task)

    async def versions(self) -> list[dict[str, Any]]:
        """What the registry knows, oldest first."""
        return list((await self.http.get(f"{self.path}/versions")).json()["versions"][::-1])

    async def folder(self, version: int) -> Path:
        """Where a version lies."""
        return Path((await self.versions())[version]["artifact"].removeprefix("file://"))


@asynccontextmanager
async def looped(world: World, database: DatabaseSettings) -> AsyncIterator[Loop]:
    """A registry with the world's first version."""
    await migrate(database, "leyden_registry", SCHEMA)
    await ensure_topics(world.kafka, [Topics.MODELS])
    engine, publisher = create_engine(database), KafkaPublisher(world.kafka, "registry")
    await publisher.start()
    relay = OutboxRelay(engine, outbox, publisher, "registry", order=Order.ID)
    registry = Registry(engine, ArtifactInspector(None, timeout_s=60, concurrency=2), relay.wake)
    loop = Loop(world, registry)
    stop = asyncio.Event()
    relaying = asyncio.create_task(relay.run(stop))
    first = {"version_id": str(uuid4()), "artifact": world.first.as_uri(), "aliases": ["latest", "serving"]}
    (await loop.http.post(f"{loop.path}/versions", json=first)).raise_for_status()
    yield loop
    stop.set()
    await asyncio.wait_for(relaying, DEADLINE_S)
    await loop.http.aclose()
    await publisher.stop()
    await engine.dispose()


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The built-in engine, following the registry."""
    settings = InferenceSettings(
        kafka=world.kafka,
        ops=OpsSettings(host="127.0.0.1", port=0),
        host="127.0.0.1",
        port=0,
        policies=[world.policy],
        linger_s=0.2,
    )
    components = await build(settings)
    server = components[-1]
    assert isinstance(server, HttpServer)
    stop = asyncio.Event()
    task = asyncio.create_task(run_components("inference", settings, components, stop))
    await until(lambda: not any(component.not_ready() for component in components), task)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=DEADLINE_S) as http:
        yield http
    stop.set()
    await asyncio.wait_for(task, DEADLINE_S)


async def answer_by(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """A completion by exactly this version, once it is loaded."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "12 + 34"}],
        "logprobs": True,
        "return_token_ids": True,
        "max_tokens": 40,
        "ignore_eos": True,
    }
    async with asyncio.timeout(DEADLINE_S):
        while True:
            response = await http.post("/v1/chat/completions", json=body)
            if response.status_code != 404:
                break
            await asyncio.sleep(0.05)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["model"] == name
    return answer


def loaded(folder: Path) -> Any:
    """The model in a folder, by transformers."""
    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


async def test_an_adapter_answers_as_the_merged_weights_do_and_so_does_the_next_over_the_same_base(
    make_world: Callable[[], World], database: DatabaseSettings, tmp_path: Path
) -> None:
    """The learner is started again for the second step; a twin publishes merged weights of the same steps."""
    seed = Path(shutil.copytree(SEED, tmp_path / "seed"))
    world, twin = (replace(make_world(), first=seed) for _ in range(2))
    for each in (world, twin):
        await each.publish(*(each.sample(index) for index in range(2 * BATCH)))
    await train(twin, 2, lora_rank=4, **FAR)
    merged = [checkpoint.path for checkpoint in await twin.checkpoints()]
    async with looped(world, database) as loop, serving(world) as http:
        for version in (1, 2):
            await loop.train(version, max_steps=version, **ADAPTERS, **FAR)
            answer = await answer_by(http, f"{world.policy}@{version}")
            check_logprobs(loaded(merged[version - 1]), answer)
            with pytest.raises(AssertionError):
                check_logprobs(loaded(SEED), answer)
            listed = (await http.get("/v1/models")).json()["data"]
            assert f"{world.policy}@0" in [m["parent"] for m in listed if m["id"].endswith(f"@{version}")]
        versions = await loop.versions()
        told = [(each["kind"], each["parent"], each["step"], each["aliases"]) for each in versions]
        assert told == [
            ("full", None, None, []),
            ("lora", 0, 1, []),
            ("lora", 0, 2, ["latest", "serving"]),
        ]
        folder = await loop.folder(2)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(seed)
        assert sorted(file.name for file in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "probe.json",
            "trainer",
        ]
        record = json.loads((folder / "trainer" / "step.json").read_text())
        assert (record["kind"], record["parent"], record["base_version"]) == ("lora", 1, 0)
    first, second = await world.checkpoints()
    assert (first.parent, second.parent, second.base_version, second.base) == (0, 1, 0, seed.as_uri())


async def test_a_base_stays_for_as_long_as_an_adapter_needs_it(
    make_world: Callable[[], World], database: DatabaseSettings
) -> None:
    """One run's full weights are the base of another's adapters; retention of either keeps one checkpoint."""
    world = make_world()
    few: dict[str, Any] = {"keep_weights": 1}
    async with looped(world, database) as loop:
        await loop.publish(1)
        await loop.train(1, max_steps=1)
        base = await loop.folder(1)
        await loop.publish(3, run="adapters")
        await loop.train(4, run="adapters", max_steps=3, **few, **ADAPTERS)
        versions = await loop.versions()
        assert [(each["kind"], each["parent"]) for each in versions[2:]] == [("lora", 1)] * 3
        assert [bool(each["retired_at"]) for each in versions] == [False, False, True, True, False]
        pin = f"{loop.path}/versions/1/pins/run:adapters"
        assert versions[1]["pins"] == ["run:adapters"]
        (await loop.http.delete(pin)).raise_for_status()
        # The run that made the base goes on, and would let go of it.
        await loop.publish(1)
        await loop.train(5, max_steps=2, **few)
        assert world.count("leyden_learner_retention_total", outcome="base") == 1
        assert (base / "model.safetensors").is_file()
        retired = await loop.http.post(f"{loop.path}/versions/4/retire", json={})
        assert retired.status_code == 200
        await loop.publish(1)
        await loop.train(6, max_steps=3, **few)
        assert not base.exists()


async def test_a_run_begins_with_the_adapter_of_another_and_lies_over_its_base(
    make_world: Callable[[], World], database: DatabaseSettings
) -> None:
    world = make_world()
    async with looped(world, database) as loop:
        await loop.publish(1)
        await loop.train(1, max_steps=1, **ADAPTERS)
        with pytest.raises(OtherAdapters, match="LEYDEN_LEARNER_LORA_RANK=4"):
            await loop.learner(run="all-weights").run(asyncio.Event())
        await loop.publish(1, run="more")
        await loop.train(2, run="more", max_steps=1, **ADAPTERS)
        versions = await loop.versions()
        assert [(each["kind"], each["parent"]) for each in versions[1:]] == [("lora", 0)] * 2
        assert "run:more" in versions[0]["pins"]
        assert "run:more" in versions[1]["pins"]
        await loop.publish(1, run="whole-again")
        await loop.train(3, run="whole-again", max_steps=1, lora_rank=4)
        newest = (await loop.versions())[3]
        assert (newest["kind"], newest["parent"]) == ("full", 2)
        assert loaded(await loop.folder(3))
