"""Weights are replaced under load through the models topic: nothing is dropped, nothing mislabelled."""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import torch
from prometheus_client import REGISTRY
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from leyden_inference.app import build
from leyden_inference.batch import BatchLimits
from leyden_inference.engine import Engine
from leyden_inference.fetching import make_fetcher
from leyden_inference.follower import Follower
from leyden_inference.keeping import ServingKeeper
from leyden_inference.loading import Loader
from leyden_inference.serving import Serving
from leyden_inference.settings import InferenceSettings
from leyden_platform.artifacts import verify_artifact
from leyden_platform.clock import SystemClock
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.service import run_components
from leyden_platform.settings import KafkaSettings, OpsSettings
from leyden_schemas import AliasMoved, ModelPublished, Topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

SEED = Path(__file__).parents[2] / "examples" / "calculator" / "seed"
DEADLINE_S = 60.0
CLIENTS = 12


@dataclass
class Rig:
    """A running service, its registry's voice, and what clients saw."""

    http: httpx.AsyncClient
    publisher: KafkaPublisher
    policy: str
    folder: Path
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def checkpoint(self, version: int) -> Path:
        """A folder whose weights differ from every other version's."""
        target = self.folder / str(version)
        shutil.copytree(SEED, target)
        generator = torch.Generator().manual_seed(version)
        tensors = load_file(target / "model.safetensors")
        noisy = {n: t + 0.05 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
        save_file(noisy, target / "model.safetensors", metadata={"format": "pt"})
        return target

    async def publish(self, version: int, folder: Path, digest: str | None = None) -> None:
        """Announce a version and make it the serving one."""
        now = SystemClock().now()
        published = ModelPublished(
            event_id=uuid4(),
            policy=self.policy,
            version=version,
            occurred_at=now,
            artifact=folder.as_uri(),
            digest=digest or verify_artifact(folder),
        )
        moved = AliasMoved(
            event_id=uuid4(), policy=self.policy, version=version, occurred_at=now, alias="serving"
        )
        await self.publisher.publish(published, moved)

    async def loaded(self) -> set[str]:
        """Versions that take requests."""
        data = (await self.http.get("/v1/models")).json()["data"]
        return {model["id"] for model in data}

    async def until_loaded(self, *versions: int) -> None:
        """Wait until exactly these versions are loaded."""
        wanted = {f"{self.policy}@{version}" for version in versions}
        async with asyncio.timeout(DEADLINE_S):
            while await self.loaded() != wanted:  # noqa: ASYNC110 - as a client sees it
                await asyncio.sleep(0.05)

    async def until_served_by(self, version: int) -> None:
        """Wait until a client was answered by this version."""
        name = f"{self.policy}@{version}"
        async with asyncio.timeout(DEADLINE_S):
            while not any(answer["model"] == name for answer in self.answers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def keep_asking(self, stop: asyncio.Event, seed: int) -> None:
        """One client: the next request as soon as the last is answered, by alias and by exact name."""
        rng = random.Random(seed)
        while not stop.is_set():
            exact = [answer["model"] for answer in self.answers[-1:]]
            body = {
                "model": rng.choice([self.policy, f"{self.policy}#serving", *exact]),
                "messages": [{"role": "user", "content": f"{rng.randint(1, 99)} + {rng.randint(1, 99)}"}],
                "logprobs": True,
                "return_token_ids": True,
                "max_tokens": rng.randint(5, 60),
                "ignore_eos": True,
            }
            response = await self.http.post("/v1/chat/completions", json=body)
            if response.status_code == 200:
                self.answers.append(response.json())
            else:
                self.failures.append(response.text)


@pytest.fixture
async def rig(kafka: KafkaSettings, tmp_path: Path) -> AsyncIterator[Rig]:
    await ensure_topics(kafka, [Topics.MODELS])
    policy = f"swap-{uuid4().hex[:8]}"
    settings = InferenceSettings(
        kafka=kafka,
        ops=OpsSettings(host="127.0.0.1", port=0),
        host="127.0.0.1",
        port=0,
        policies=[policy],
        linger_s=1.0,
        load_retry_s=0.5,
        max_batch=8,
    )
    components = await build(settings)
    follower, server = components[1], components[-1]
    assert isinstance(follower, Follower)
    assert isinstance(server, HttpServer)
    stop = asyncio.Event()
    running = asyncio.create_task(run_components("inference", settings, components, stop))
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    base_url = f"http://127.0.0.1:{server.port}"
    async with asyncio.timeout(DEADLINE_S):
        while follower.not_ready() or server.not_ready():  # noqa: ASYNC110 - the service's own readiness
            await asyncio.sleep(0.05)
    async with httpx.AsyncClient(base_url=base_url, timeout=DEADLINE_S) as http:
        yield Rig(http, publisher, policy, tmp_path)
    await publisher.stop()
    stop.set()
    await asyncio.wait_for(running, DEADLINE_S)


def check_logprobs(model: Any, answer: dict[str, Any]) -> None:
    """The answer's logprobs are those of this model's weights."""
    prompt, choice = answer["prompt_token_ids"], answer["choices"][0]
    ids = torch.tensor([prompt + choice["token_ids"]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0], dim=-1)[len(prompt) - 1 : -1]
    expected = logprobs.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
    reported = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
    torch.testing.assert_close(reported, expected, atol=1e-4, rtol=0)


def failures_by(reason: str) -> float:
    return REGISTRY.get_sample_value("leyden_inference_load_failures_total", {"reason": reason}) or 0.0


async def test_weights_are_swapped_under_load_without_a_failed_or_mislabelled_request(rig: Rig) -> None:
    folders = {version: rig.checkpoint(version) for version in range(4)}
    await rig.publish(0, folders[0])
    await rig.until_loaded(0)
    stop = asyncio.Event()
    clients = [asyncio.create_task(rig.keep_asking(stop, seed)) for seed in range(CLIENTS)]
    for version in range(4):
        if version:
            await rig.publish(version, folders[version])
        await rig.until_served_by(version)
    await rig.until_loaded(3)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*clients), DEADLINE_S)
    assert rig.failures == []
    counts = Counter(answer["model"] for answer in rig.answers)
    assert set(counts) == {f"{rig.policy}@{version}" for version in range(4)}
    for version, folder in folders.items():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.eval()
        for answer in [a for a in rig.answers if a["model"] == f"{rig.policy}@{version}"][-40:]:
            check_logprobs(model, answer)


async def test_a_broken_checkpoint_changes_nothing_until_it_is_mended(rig: Rig) -> None:
    await rig.publish(0, rig.checkpoint(0))
    await rig.until_loaded(0)
    whole = rig.checkpoint(1)
    digest = verify_artifact(whole)
    (whole / "tokenizer.json").rename(whole / "hidden")
    before = failures_by("missing")
    await rig.publish(1, whole, digest)
    async with asyncio.timeout(DEADLINE_S):
        while failures_by("missing") == before:  # noqa: ASYNC110 - the metric is what is promised
            await asyncio.sleep(0.05)
    body = {"model": rig.policy, "messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": 2}
    answer = await rig.http.post("/v1/chat/completions", json=body)
    assert answer.json()["model"] == f"{rig.policy}@0"
    (whole / "hidden").rename(whole / "tokenizer.json")
    await rig.until_loaded(1)


async def test_an_alias_moved_back_brings_the_older_version_back(rig: Rig) -> None:
    for version in range(2):
        await rig.publish(version, rig.checkpoint(version))
        await rig.until_loaded(version)
    now = SystemClock().now()
    await rig.publisher.publish(
        AliasMoved(event_id=uuid4(), policy=rig.policy, version=0, occurred_at=now, alias="serving")
    )
    await rig.until_loaded(0, 1)
    body = {"model": rig.policy, "messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": 2}
    assert (await rig.http.post("/v1/chat/completions", json=body)).json()["model"] == f"{rig.policy}@0"


async def test_without_its_topic_the_follower_waits_and_stops_in_time(kafka: KafkaSettings) -> None:
    settings = InferenceSettings(kafka=kafka, reconnect_s=0.1)
    engine = Engine(BatchLimits(rows=1), max_queue=1)
    keeper = ServingKeeper(settings, Serving(engine), Loader(), make_fetcher(settings))
    follower = Follower(settings, keeper, topic=f"missing-{uuid4().hex}")
    stop = asyncio.Event()
    running = asyncio.create_task(follower.run(stop))
    await asyncio.sleep(0)
    assert follower.not_ready() == "not connected to Kafka"
    stop.set()
    await asyncio.wait_for(running, settings.drain_timeout_s)
