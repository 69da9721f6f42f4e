"""A judge for tests: a real HTTP server that answers chat completions as it is told, and remembers them."""

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from leyden_platform.http import HttpServer

_ID = re.compile(r'\{"id": "([0-9a-f]{16})"')


def completion(content: str, tokens: int = 30) -> JSONResponse:
    """A chat completion."""
    return JSONResponse(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": "judge-model",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
            ],
            "usage": {"prompt_tokens": tokens - 10, "completion_tokens": 10, "total_tokens": tokens},
        }
    )


def verdict_id(prompt: str) -> str:
    """The id that a verdict on this prompt has to have."""
    return str(_ID.findall(prompt)[-1])


def scored(score: float, why: str = "because") -> Callable[[str], Response]:
    """Answers with a verdict on one."""
    return lambda prompt: completion(json.dumps({"id": verdict_id(prompt), "why": why, "score": score}))


def ranked(worth: Callable[[str], float]) -> Callable[[str], Response]:
    """Answers with a verdict on several, each worth what ``worth`` says of its material."""

    def answer(prompt: str) -> Response:
        materials = re.findall(r'MATERIAL, agent (\d+):\n(".*")', prompt)
        scores = [
            {"agent": int(number), "why": f"agent {number}", "score": worth(json.loads(text))}
            for number, text in materials
        ]
        return completion(json.dumps({"id": verdict_id(prompt), "scores": scores}))

    return answer


@dataclass
class JudgeStub:
    """What it was asked, and what it answers: those of ``first`` in turn, then ``answer``."""

    answer: Callable[[str], Response]
    first: deque[Callable[[str], Response]] = field(default_factory=deque)
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def serve(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        answer = self.first.popleft() if self.first else self.answer
        return answer(body["messages"][-1]["content"])

    def server(self) -> HttpServer:
        """The server, bound."""
        routes = [Route("/v1/chat/completions", self.serve, methods=["POST"])]
        server = HttpServer("judge-stub", Starlette(routes=routes), "127.0.0.1", 0, drain_timeout_s=1)
        server.bind()
        self.url = f"http://127.0.0.1:{server.port}/v1"
        return server


@asynccontextmanager
async def judging(
    answer: Callable[[str], Response], *first: Callable[[str], Response]
) -> AsyncIterator[JudgeStub]:
    """A running judge."""
    stub, stop = JudgeStub(answer, deque(first)), asyncio.Event()
    running = asyncio.create_task(stub.server().run(stop))
    try:
        yield stub
    finally:
        stop.set()
        await running
