"""A program with vLLM's command line and control routes, whose "weights" are the folder it was told to load.

What it answers to a probe is what the folder's ``probe.json`` says, and every token it samples is its
name; so a test sees which weights computed what. ``POST /fake`` makes it fail as servers do.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from leyden_platform.probe import read_probe

Json = dict[str, Any]
TOKEN_S = 0.005


@dataclass
class Fake:
    """One server. ``mode`` of reloads: ``""``, ``stale``, ``broken``, ``die``, ``refuse`` or ``hang``."""

    name: str
    folder: Path
    mode: str = ""
    adapters: dict[str, Path] = field(default_factory=dict)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    salts: list[str | None] = field(default_factory=list)
    resets: int = 0

    def app(self) -> Starlette:
        """vLLM's routes, as far as they are driven."""
        self.running.set()
        post = ["POST"]
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/metrics", self.health),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.complete, methods=post),
                Route("/v1/chat/completions", self.complete, methods=post),
                Route("/pause", self.pause, methods=post),
                Route("/resume", self.resume, methods=post),
                Route("/collective_rpc", self.reload, methods=post),
                Route("/reset_prefix_cache", self.reset, methods=post),
                Route("/v1/load_lora_adapter", self.load, methods=post),
                Route("/v1/unload_lora_adapter", self.unload, methods=post),
                Route("/fake", self.configure, methods=post),
            ]
        )

    async def health(self, _request: Request) -> Response:
        """Up."""
        return Response()

    async def models(self, _request: Request) -> Response:
        """The base model and its adapters."""
        base: Json = {"id": self.name, "max_model_len": 512, "parent": None}
        loras = [{"id": name, "parent": self.name} for name in self.adapters]
        return JSONResponse({"object": "list", "data": [base, *loras]})

    async def configure(self, request: Request) -> Response:
        """Change the ways; answer what was seen."""
        self.mode = (await request.json()).get("mode", self.mode)
        return JSONResponse({"salts": self.salts, "resets": self.resets, "folder": str(self.folder)})

    async def pause(self, request: Request) -> Response:
        """Compute nothing; only the mode that fails nothing is known."""
        if request.query_params.get("mode") != "keep":
            return JSONResponse({"error": "unexpected mode"}, 400)
        self.running.clear()
        return JSONResponse({"status": "paused"})

    async def resume(self, _request: Request) -> Response:
        """Compute again."""
        self.running.set()
        return JSONResponse({"status": "resumed"})

    async def reload(self, request: Request) -> Response:
        """Other weights, or one of the failures."""
        body = await request.json()
        if body["method"] != "leyden_reload":
            return JSONResponse({"error": {"message": "no such method"}}, 500)
        if self.running.is_set():
            return JSONResponse({"error": {"message": "weights changed while something was computed"}}, 500)
        folder = Path(body["kwargs"]["weights_path"])
        match self.mode:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "refuse":
                return JSONResponse({"error": {"message": "shapes differ"}}, 500)
            case "hang":
                await asyncio.sleep(3600)
            case "broken":
                self.folder, self.mode = Path("/broken"), ""
            case "stale":
                pass
            case _:
                self.folder = folder
        return JSONResponse({"results": [None]})

    async def reset(self, _request: Request) -> Response:
        """Forget prefixes."""
        self.resets += 1
        return JSONResponse({"success": True})

    async def load(self, request: Request) -> Response:
        """An adapter, whose name must be new."""
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return JSONResponse({"error": {"message": "already loaded"}}, 400)
        self.adapters[body["lora_name"]] = Path(body["lora_path"])
        return Response("Success")

    async def unload(self, request: Request) -> Response:
        """Forget an adapter."""
        name = (await request.json())["lora_name"]
        if name not in self.adapters:
            return JSONResponse({"error": {"message": "no such adapter"}}, 404)
        del self.adapters[name]
        return Response("Success")

    async def complete(self, request: Request) -> Response:
        """A probe's answer, or tokens that name the weights."""
        body = await request.json()
        if body["model"] != self.name and body["model"] not in self.adapters:
            return JSONResponse({"error": {"message": f"no model {body['model']}", "code": 404}}, 404)
        if body.get("prompt_logprobs") is not None:
            return JSONResponse(self.probed(body))
        self.salts.append(body.get("cache_salt"))
        if body.get("stream"):
            return StreamingResponse(self.stream(body), media_type="text/event-stream")
        words = [word async for word in self.sample(body)]
        choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}}
        return answer({"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]})

    def probed(self, body: Json) -> Json:
        """What the folder's own probe says, or nonsense for broken weights."""
        folder = self.adapters.get(body["model"], self.folder)
        probe = read_probe(folder) if folder.is_dir() else None
        logprobs = probe.logprobs if probe else [-50.0] * (len(body["prompt"]) - 1)
        entries: list[Json | None] = [None]
        entries += [
            {str(t): {"logprob": v, "rank": 1}} for t, v in zip(body["prompt"][1:], logprobs, strict=True)
        ]
        return {"model": body["model"], "choices": [{"index": 0, "text": "", "prompt_logprobs": entries}]}

    async def sample(self, body: Json) -> AsyncIterator[str]:
        """One word a token, each by the weights of that moment."""
        for _ in range(body.get("max_tokens", 3)):
            await asyncio.sleep(TOKEN_S)
            await self.running.wait()
            yield self.adapters.get(body["model"], self.folder).name

    async def stream(self, body: Json) -> AsyncIterator[bytes]:
        """The same, as server-sent events."""
        async for word in self.sample(body):
            choice = {"index": 0, "delta": {"content": word + ' "model":"'}}
            event = {
                "id": "x",
                "object": "chat.completion.chunk",
                "model": body["model"],
                "choices": [choice],
            }
            yield b"data: " + compact(event) + b"\n\n"
        yield b"data: [DONE]\n\n"


def compact(value: Json) -> bytes:
    """JSON without white space, as vLLM writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


def answer(value: Json) -> Response:
    """A JSON response."""
    return Response(compact(value), media_type="application/json")


def main() -> None:
    """Serve a folder; ``FAKE_START`` says how a start goes wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    known, _ = parser.parse_known_args()
    if known.folder.name == os.environ.get("FAKE_DIE_WITH"):
        sys.exit("no such architecture")
    match os.environ.get("FAKE_START"):
        case "die":
            sys.exit("no room for the key-value cache")
        case "hang":
            signal.pause()
    fake = Fake(known.served_model_name, known.folder)
    uvicorn.run(fake.app(), host=known.host, port=known.port, log_level="warning")


if __name__ == "__main__":
    main()
