"""Real vLLM behind the service: weights change under load, adapters load, wrong weights and kills do no harm.

Run by ``make test-vllm``: ``LEYDEN_TEST_VLLM`` is the program ``vllm``. All tests use one server, because a
start takes a minute.
"""

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
import torch
from inference_process import SEED, VLLM, engine_environment, running_inference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from leyden_inference.probing import computed_probe
from leyden_learner.adapter_folder import name_base
from leyden_learner.lora import adapters, inject, merged, published
from leyden_learner.lora_files import write_adapter
from leyden_learner.settings import LearnerSettings
from leyden_platform.artifacts import verify_artifact
from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.probe import Probe, write_probe
from leyden_platform.settings import KafkaSettings
from leyden_schemas import AliasMoved, ModelPublished, Topics, WeightsKind

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(600),
    pytest.mark.skipif(VLLM is None, reason="LEYDEN_TEST_VLLM does not name the program vllm"),
]

DEADLINE_S = 240.0
POLICY = "calculator"


@dataclass
class Rig:
    """A running service and its registry's voice."""

    http: httpx.AsyncClient
    publisher: KafkaPublisher
    folder: Path
    answers: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def publish(self, version: int, folder: Path, **changes: Any) -> None:
        """Announce a version and make it the serving one."""
        now = SystemClock().now()
        message = ModelPublished(
            event_id=uuid4(),
            policy=POLICY,
            version=version,
            occurred_at=now,
            artifact=folder.as_uri(),
            digest=verify_artifact(folder, changes.get("kind", WeightsKind.FULL)),
            **changes,
        )
        await self.publisher.publish(
            message,
            AliasMoved(event_id=uuid4(), policy=POLICY, version=version, occurred_at=now, alias="serving"),
        )

    async def served(self) -> list[str]:
        """Names that take requests."""
        return [model["id"] for model in (await self.http.get("/v1/models")).json()["data"]]

    async def until_served(self, version: int) -> None:
        """Wait until this version takes requests."""
        async with asyncio.timeout(DEADLINE_S):
            while f"{POLICY}@{version}" not in await self.served():  # noqa: ASYNC110 - as a client sees it
                await asyncio.sleep(0.05)

    async def ask(self, **body: Any) -> httpx.Response:
        """One completion with ids and log-probabilities."""
        asked = {
            "model": POLICY,
            "messages": [{"role": "user", "content": "12 + 34 * 7"}],
            "logprobs": True,
            "return_token_ids": True,
            "max_tokens": 20,
            "ignore_eos": True,
        }
        return await self.http.post("/v1/chat/completions", json=asked | body)

    async def keep_asking(self, stop: asyncio.Event, seed: int) -> None:
        """One client: the next request as soon as the last is answered."""
        rng = random.Random(seed)
        while not stop.is_set():
            content = f"{rng.randint(1, 99)} + {rng.randint(1, 99)}"
            messages = [{"role": "user", "content": content}]
            response = await self.ask(messages=messages, max_tokens=rng.randint(5, 60))
            if response.status_code == 200:
                self.answers.append(response.json())
            else:
                self.failures.append(response.text)


def checkpoint(root: Path, version: int, scale: float = 0.05) -> Path:
    """A folder whose weights differ from every other version's, in every tensor."""
    target = root / f"full-{version}"
    shutil.copytree(SEED, target)
    generator = torch.Generator().manual_seed(version)
    tensors = load_file(target / "model.safetensors")
    noisy = {n: t + scale * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
    save_file(noisy, target / "model.safetensors", metadata={"format": "pt"})
    write_probe(target, computed_probe(target))
    return target


def load(folder: Path) -> Any:
    """The weights of a folder by transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def check_logprobs(model: Any, answer: dict[str, Any]) -> None:
    """The answer's log-probabilities are those of this model's weights."""
    prompt, choice = answer["prompt_token_ids"], answer["choices"][0]
    ids = torch.tensor([prompt + choice["token_ids"]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0], dim=-1)[len(prompt) - 1 : -1]
    expected = logprobs.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
    reported = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
    torch.testing.assert_close(reported, expected, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def service(kafka: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The service over vLLM, with the seed published as version 0."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("versions")
    environment = engine_environment("vllm", MAX_LORAS=2, MAX_LORA_RANK=8) | {
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": "false",
        "LEYDEN_INFERENCE_POLICIES": json.dumps([POLICY]),
        "LEYDEN_INFERENCE_LOAD_RETRY_S": "2",
        "LEYDEN_INFERENCE_LINGER_S": "1",
        "LEYDEN_INFERENCE_VLLM__PARK_TIMEOUT_S": str(DEADLINE_S),
    }
    asyncio.run(_announce_seed(kafka))
    with running_inference(folder / "log", environment) as url:
        yield url, folder


async def _announce_seed(kafka: KafkaSettings) -> None:
    await ensure_topics(kafka, [Topics.MODELS])
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    async with httpx.AsyncClient() as http:
        await Rig(http, publisher, SEED).publish(0, SEED)
    await publisher.stop()


@pytest.fixture
async def rig(kafka: KafkaSettings, service: tuple[str, Path]) -> AsyncIterator[Rig]:
    url, folder = service
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http:
        yield Rig(http, publisher, folder)
    await publisher.stop()


async def test_weights_change_under_load_and_every_answer_is_of_the_version_it_names(rig: Rig) -> None:
    await rig.until_served(0)
    folders = {0: SEED} | {version: checkpoint(rig.folder, version) for version in (1, 2, 3)}
    stop = asyncio.Event()
    clients = [asyncio.create_task(rig.keep_asking(stop, seed)) for seed in range(8)]
    for version in folders:
        if version:
            await rig.publish(version, folders[version])
            await rig.until_served(version)
        async with asyncio.timeout(DEADLINE_S):
            while not any(a["model"] == f"{POLICY}@{version}" for a in rig.answers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*clients)
    assert rig.failures == []
    for version, folder in folders.items():
        model = load(folder)
        for answer in [a for a in rig.answers if a["model"] == f"{POLICY}@{version}"][-20:]:
            check_logprobs(model, answer)


async def test_prefixes_of_one_version_are_not_used_by_the_next(rig: Rig) -> None:
    """The prompt is longer than vLLM's blocks on a CPU, so that the second request finds it."""
    long = [{"role": "user", "content": "12 + 34 * 7 + " * 25 + "1"}]
    first = checkpoint(rig.folder, 4)
    await rig.publish(4, first)
    await rig.until_served(4)
    for _ in range(2):
        check_logprobs(load(first), (await rig.ask(messages=long)).json())
    hits = await cached_tokens(rig)
    assert hits > 0
    second = checkpoint(rig.folder, 5)
    await rig.publish(5, second)
    await rig.until_served(5)
    answer = (await rig.ask(messages=long)).json()
    assert answer["model"] == f"{POLICY}@5"
    check_logprobs(load(second), answer)
    assert await cached_tokens(rig) == hits


async def cached_tokens(rig: Rig) -> float:
    text = (await rig.http.get("/engines/0/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:prefix_cache_hits_total{")]
    return float(line.split()[-1])


async def test_weights_that_answer_otherwise_than_the_learners_are_not_served(rig: Rig) -> None:
    """The folder is whole and its digest right; only its probe is not that of its weights."""
    before = await rig.served()
    folder = checkpoint(rig.folder, 6)
    true = computed_probe(folder)
    write_probe(folder, Probe(true.token_ids, tuple(value - 0.01 for value in true.logprobs)))
    await rig.publish(6, folder)
    log = rig.folder / "log"
    async with asyncio.timeout(DEADLINE_S):
        while f'"model": "{POLICY}@6"' not in _refusals(log):  # noqa: ASYNC110 - as an operator sees it
            await asyncio.sleep(0.1)
    answer = (await rig.ask()).json()
    assert answer["model"] in before
    check_logprobs(load(rig.folder / "full-5"), answer)
    exact = await rig.ask(model=f"{POLICY}@6")
    assert exact.status_code == 404
    write_probe(folder, true)
    await rig.publish(6, folder)
    await rig.until_served(6)


def _refusals(log: Path) -> str:
    lines = log.read_text().splitlines()
    return "\n".join(line for line in lines if "version_not_loaded" in line and '"reason": "probe"' in line)


async def test_an_adapter_is_served_under_its_version_beside_its_base(rig: Rig) -> None:
    """It is probed while others are served: vLLM 0.32 alone does not survive that on a CPU."""
    folder, whole = adapter(rig.folder)
    base = load(rig.folder / "full-6")
    long = [asyncio.create_task(rig.ask(max_tokens=300)) for _ in range(16)]
    await rig.publish(7, folder, kind=WeightsKind.LORA, parent=6)
    await rig.until_served(7)
    for meanwhile in await asyncio.gather(*long):
        assert meanwhile.status_code == 200, meanwhile.text
        assert meanwhile.json()["model"] == f"{POLICY}@6"
        check_logprobs(base, meanwhile.json())
    assert f"{POLICY}@6" in await rig.served()
    answer = (await rig.ask()).json()
    assert answer["model"] == f"{POLICY}@7"
    check_logprobs(whole, answer)
    check_logprobs(base, (await rig.ask(model=f"{POLICY}@6")).json())


def adapter(root: Path) -> tuple[Path, Any]:
    """An adapter over version 6 as the learner writes one, with its probe; and the model that it makes."""
    settings = LearnerSettings(policy=POLICY, lora_rank=4, publish="adapter")
    model = load(root / "full-6")
    inject(model, rank=4, alpha=8.0, targets=())
    generator = torch.Generator().manual_seed(7)
    for name, value in adapters(model).items():
        if "lora_B" in name:
            value.data = 0.05 * torch.randn(value.shape, generator=generator)
    folder = root / "lora-7"
    folder.mkdir()
    write_adapter(folder, {name: value.detach() for name, value in published(model).items()}, settings)
    name_base(folder, (root / "full-6").as_uri())
    whole = load(root / "full-6")
    whole.load_state_dict(merged(model))
    whole.save_pretrained(root / "merged-7")
    write_probe(folder, computed_probe(root / "merged-7"))
    return folder, whole


async def test_kill_nine_of_the_engine_is_mended_while_requests_wait(rig: Rig) -> None:
    last = checkpoint(rig.folder, 8)
    await rig.publish(8, last)
    await rig.until_served(8)
    (api,) = [p for p in psutil.process_iter(["cmdline"]) if _is_server(p)]
    engine = max(api.children(recursive=True), key=lambda process: process.memory_info().rss)
    os.kill(engine.pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while await rig.served():  # noqa: ASYNC110 - until it is noticed
            await asyncio.sleep(0.1)
    answer = await rig.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == f"{POLICY}@8"
    check_logprobs(load(last), answer.json())


def _is_server(process: psutil.Process) -> bool:
    """Our child: vLLM's command under the service that this session started."""
    command = process.info["cmdline"] or []
    ours = any(parent.pid == os.getpid() for parent in process.parents())
    return ours and str(VLLM) in command
