"""A fleet over programs that act as vLLM does, its HTTP interface, and versions to publish to it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import torch
from safetensors.torch import save_file

from leyden_inference.settings import InferenceSettings, VllmSettings
from leyden_inference.vllm.build import build_vllm
from leyden_inference.vllm.fleet import Fleet
from leyden_platform.artifacts import verify_artifact
from leyden_platform.clock import SystemClock
from leyden_platform.http import HttpServer
from leyden_platform.probe import Probe, probe_ids, write_probe
from leyden_schemas import AliasMoved, ModelPublished, WeightsKind

FAKE = Path(__file__).parents[1] / "harness" / "vllm_fake.py"
DEADLINE_S = 100.0
POLICY = "calculator"


def checkpoint(root: Path, version: int, *, kind: WeightsKind = WeightsKind.FULL, layers: int = 1) -> Path:
    """A complete folder named ``v<version>`` whose probe is its own."""
    folder = root / f"v{version}"
    folder.mkdir(parents=True)
    if kind is WeightsKind.FULL:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_text(json.dumps({"vocab_size": 32, "layers": layers}))
        save_file({"w": torch.tensor([float(version)])}, folder / "model.safetensors")
    else:
        (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
        save_file({"w": torch.tensor([float(version)])}, folder / "adapter_model.safetensors")
    ids = probe_ids(32)
    logprobs = [-1.0 - 0.5 * version - 0.001 * i for i in range(len(ids) - 1)]
    write_probe(folder, Probe(tuple(ids), tuple(logprobs)))
    return folder


def published(folder: Path, version: int, **changes: Any) -> ModelPublished:
    """The announcement of a folder."""
    kind = changes.get("kind", WeightsKind.FULL)
    return ModelPublished(
        **{
            "event_id": uuid4(),
            "policy": POLICY,
            "version": version,
            "occurred_at": SystemClock().now(),
            "artifact": folder.as_uri(),
            "digest": verify_artifact(folder, kind),
            **changes,
        }
    )


def moved(version: int, alias: str = "serving") -> AliasMoved:
    """The announcement that an alias names a version."""
    now = SystemClock().now()
    return AliasMoved(event_id=uuid4(), policy=POLICY, version=version, occurred_at=now, alias=alias)


@dataclass
class Rig:
    """A running fleet."""

    fleet: Fleet
    http: httpx.AsyncClient
    folder: Path
    url: str
    running: "asyncio.Task[None]"
    answers: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def announce(self, *messages: Any) -> None:
        """What the follower does with messages of the models topic."""
        for message in messages:
            self.fleet.announced.apply(message)
        self.fleet.plan()

    def publish(self, version: int) -> Path:
        """Make, announce and serve a version."""
        folder = checkpoint(self.folder, version)
        self.announce(published(folder, version), moved(version))
        return folder

    async def until_served(self, *versions: int) -> None:
        """Wait until exactly these versions take requests."""
        wanted = sorted(f"{POLICY}@{version}" for version in versions)
        await self.until(lambda: self.fleet.names == wanted)

    async def until_among(self, version: int) -> None:
        """Wait until this version takes requests, others beside it or not."""
        await self.until(lambda: f"{POLICY}@{version}" in self.fleet.names)

    async def until_answered(self, version: int) -> None:
        """Wait until a client was answered by this version, in name and in fact."""
        await self.until(lambda: (f"{POLICY}@{version}", f"v{version}") in self.answers)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, and fail with what made the fleet fail."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                if self.running.done():
                    self.running.result()
                await asyncio.sleep(0.02)

    async def ask(self, model: str = POLICY, tokens: int = 5) -> httpx.Response:
        """One completion that is not streamed."""
        body = {"model": model, "messages": [{"role": "user", "content": "1 + 1"}], "max_tokens": tokens}
        return await self.http.post("/v1/chat/completions", json=body)

    async def stream(self, model: str = POLICY, tokens: int = 5) -> list[dict[str, Any]]:
        """One streamed completion; its events."""
        body = {"model": model, "messages": [{"role": "user", "content": "1"}], "max_tokens": tokens}
        response = await self.http.post("/v1/chat/completions", json=body | {"stream": True})
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    async def keep_asking(self, stop: asyncio.Event, *, streamed: bool) -> None:
        """One client: the next request as soon as the last is answered; (model, words) of every answer."""
        while not stop.is_set():
            if streamed:
                events = await self.stream()
                if any("error" in event for event in events):
                    self.failures.append(str(events))
                    continue
                words = [event["choices"][0]["delta"]["content"].split()[0] for event in events]
                self.answers += [(event["model"], word) for event, word in zip(events, words, strict=True)]
            else:
                response = await self.ask()
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                content = response.json()["choices"][0]["message"]["content"]
                self.answers += [(response.json()["model"], word) for word in content.split()]

    async def configure(self, engine: int, **what: Any) -> dict[str, Any]:
        """Make one of the servers fail in some way; what it saw so far."""
        url = self.fleet.engines[engine].client.url
        async with httpx.AsyncClient() as client:
            seen: dict[str, Any] = (await client.post(f"{url}/fake", json=what)).json()
            return seen


def settings(**vllm: Any) -> InferenceSettings:
    """Settings of a service over the acting program."""
    own = {
        "command": [sys.executable, str(FAKE)],
        "args": [],
        "start_timeout_s": DEADLINE_S,
        "swap_timeout_s": 60.0,
        "park_timeout_s": DEADLINE_S,
        "probe": "required",
        **vllm,
    }
    return InferenceSettings(
        engine="vllm",
        policies=[POLICY],
        host="127.0.0.1",
        port=0,
        load_retry_s=0.3,
        linger_s=0.2,
        vllm=VllmSettings(**own),
    )


@asynccontextmanager
async def running_fleet(folder: Path, chosen: InferenceSettings) -> AsyncIterator[Rig]:
    """The service without its follower; everything it started is gone afterwards."""
    components = await build_vllm(chosen)
    fleet, server = components[0], components[-1]
    assert isinstance(fleet, Fleet)
    assert isinstance(server, HttpServer)
    stop, url = asyncio.Event(), f"http://127.0.0.1:{server.port}"
    serving = asyncio.create_task(server.run(stop))
    running = asyncio.create_task(fleet.run(stop))
    following = asyncio.create_task(_follow(fleet))
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http:
        yield Rig(fleet, http, folder, url, running)
    following.cancel()
    stop.set()
    await asyncio.wait_for(asyncio.gather(serving, running, return_exceptions=True), DEADLINE_S)


async def _follow(fleet: Fleet) -> None:
    """What the follower does while nothing new is announced."""
    while True:
        await fleet.reconcile()
        await asyncio.sleep(0.1)
