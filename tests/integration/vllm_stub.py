"""A stand-in for vLLM: its exact JSON and SSE, token ids included, and its ways to fail.

Tokens are the pieces of a scripted reply (its words, or parts of tool calls) and an end token; token ``i``
has id ``100 + i`` and log-probability ``-0.1 * (i + 1)``. Tests script it by setting attributes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import vllm_text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from vllm_pieces import FIRST_ID, PROMPT_IDS, Json, sse

from leyden_platform.http import HttpServer


@dataclass
class VllmStub:
    """One replica. Every request's body and headers are kept in ``requests`` and ``headers``."""

    models: set[str] = field(default_factory=lambda: {"calculator@1"})
    reply: str = "the answer is 12"
    tool_calls: list[Json] = field(default_factory=list)
    fail: Callable[[Json], Response | None] = lambda _body: None
    events: Callable[[Json], AsyncIterator[bytes]] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Streams pause before their last token, and whole answers before they begin, until it is set."""
    token_ids: bool = True
    extra_logprobs: int = 0
    requests: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.gate.set()

    def app(self) -> Starlette:
        """The replica's HTTP interface."""
        return Starlette(
            routes=[
                Route("/v1/models", self.list_models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.text, methods=["POST"]),
                Route("/v1/embeddings", self.embed, methods=["POST"]),
                Route("/tokenize", self.tokenize, methods=["POST"]),
            ]
        )

    async def list_models(self, _request: Request) -> Response:
        """The models that are loaded."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def chat(self, request: Request) -> Response:
        """One chat completion."""
        return await self._answer(request, self.whole, self.stream)

    async def text(self, request: Request) -> Response:
        """One text completion."""
        return await self._answer(
            request, lambda body: vllm_text.whole(self, body), lambda body: vllm_text.stream(self, body)
        )

    async def embed(self, request: Request) -> Response:
        """Embeddings."""
        return await self._answer(request, vllm_text.embeddings, self.stream)

    async def tokenize(self, request: Request) -> Response:
        """The ids of a prompt."""
        counted = {"count": len(PROMPT_IDS), "max_model_len": 64, "tokens": PROMPT_IDS, "token_strs": None}
        return await self._answer(request, lambda _body: counted, self.stream)

    async def _answer(
        self,
        request: Request,
        whole: Callable[[Json], Json],
        stream: Callable[[Json], AsyncIterator[bytes]],
    ) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.arrived.set()
        if body["model"] not in self.models:
            return error(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if failure := self.fail(body):
            return failure
        if body.get("stream"):
            events = (self.events or stream)(body)
            return StreamingResponse(self._noticing(events), media_type="text/event-stream")
        await self._wait(request)
        return JSONResponse(whole(body))

    def reset(self) -> None:
        """As new, but for the address and the models."""
        fresh = VllmStub(models=self.models, url=self.url)
        for own in fields(self):
            setattr(self, own.name, getattr(fresh, own.name))

    async def _wait(self, request: Request) -> None:
        while not self.gate.is_set():
            if await request.is_disconnected():
                self.hung_up.set()
                return
            await asyncio.wait([asyncio.ensure_future(self.gate.wait())], timeout=0.02)

    async def _noticing(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        ended = False
        try:
            async for piece in stream:
                yield piece
            ended = True
        finally:
            if not ended:
                self.hung_up.set()

    def words(self) -> list[str]:
        """The reply's tokens; together they are the reply."""
        words = self.reply.split(" ")
        return [word + " " for word in words[:-1]] + words[-1:]

    def logprobs(self, start: int, stop: int, body: Json) -> Json | None:
        """The logprobs object of tokens ``start`` to ``stop``."""
        if not body.get("logprobs"):
            return None
        return {
            "content": [
                {"token": f"t{i}", "logprob": -0.1 * (i + 1), "bytes": [116], "top_logprobs": []}
                for i in range(start, stop)
            ]
        }

    def whole(self, body: Json) -> Json:
        """A complete answer, as vLLM's server serialises it."""
        count = len(self.deltas())
        message = {
            "role": "assistant",
            "content": None if self.tool_calls else self.reply,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": self.tool_calls,
            "reasoning": None,
        }
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": self.logprobs(0, count + self.extra_logprobs, body),
                "finish_reason": "tool_calls" if self.tool_calls else "stop",
                "stop_reason": None,
                "token_ids": self.ids(count, body),
            }
            for index in range(body.get("n") or 1)
        ]
        return {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": self.usage(count * len(choices)),
            "prompt_logprobs": None,
            "prompt_token_ids": PROMPT_IDS if self.token_ids and body.get("return_token_ids") else None,
            "kv_transfer_params": None,
        }

    def ids(self, count: int, body: Json) -> list[int] | None:
        """The sampled ids of one choice, end token included."""
        return (
            list(range(FIRST_ID, FIRST_ID + count))
            if self.token_ids and body.get("return_token_ids")
            else None
        )

    @staticmethod
    def usage(completion: int) -> Json:
        """The usage object."""
        return {
            "prompt_tokens": len(PROMPT_IDS),
            "total_tokens": len(PROMPT_IDS) + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
        }

    async def stream(self, body: Json) -> AsyncIterator[bytes]:
        """A streamed answer, as vLLM's server serialises it."""
        ids = bool(self.token_ids and body.get("return_token_ids"))
        n = body.get("n") or 1
        for index in range(n):
            first = self.chunk(body, index, {"role": "assistant", "content": ""}, None)
            yield sse(first | ({"prompt_token_ids": PROMPT_IDS} if ids else {}))
        pieces = self.deltas()
        for position, delta in enumerate(pieces):
            last = position == len(pieces) - 1
            if last:
                await self.gate.wait()
            for index in range(n):
                reason = ("tool_calls" if self.tool_calls else "stop") if last else None
                chunk = self.chunk(body, index, delta, reason)
                choice = chunk["choices"][0]
                extra = self.extra_logprobs if last else 0
                choice["logprobs"] = self.logprobs(position, position + 1 + extra, body)
                if ids:
                    choice["token_ids"] = [FIRST_ID + position]
                yield sse(chunk)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield sse(self.head(body) | {"choices": [], "usage": self.usage(len(pieces) * n)})
        yield b"data: [DONE]\n\n"

    def deltas(self) -> list[Json]:
        """One delta for each sampled token; tool calls come in pieces, then the end token is empty."""
        if not self.tool_calls:
            return [*({"content": word} for word in self.words()), {"content": ""}]
        pieces: list[Json] = []
        for index, call in enumerate(self.tool_calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            function = {"name": name, "arguments": ""}
            opening = {"index": index, "id": call["id"], "type": "function", "function": function}
            pieces.append({"tool_calls": [opening]})
            half = len(arguments) // 2
            parts = (arguments[:half], arguments[half:])
            pieces += [{"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in parts]
        return [*pieces, {"content": ""}]

    def chunk(self, body: Json, index: int, delta: Json, reason: str | None) -> Json:
        """One chunk with one choice."""
        choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        if reason:
            choice["stop_reason"] = None
        return self.head(body) | {"choices": [choice]}

    def head(self, body: Json) -> Json:
        """What all chunks begin with."""
        return {
            "id": "chatcmpl-stub",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body["model"],
        }


def error(status: int, message: str, kind: str = "BadRequestError", headers: Json | None = None) -> Response:
    """vLLM's error object."""
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers
    )


@asynccontextmanager
async def serving(stub: VllmStub, port: int = 0) -> AsyncIterator[VllmStub]:
    """Run a replica on a free port, or on a given one; its ``url`` is set."""
    server = HttpServer("stub", stub.app(), "127.0.0.1", port, drain_timeout_s=1)
    server.bind()
    stub.url = f"http://127.0.0.1:{server.port}"
    stop = asyncio.Event()
    running = asyncio.create_task(_run(server.run(stop)))
    try:
        await eventually(lambda: server.not_ready() is None)
        yield stub
    finally:
        stop.set()
        await running


async def _run(work: Coroutine[Any, Any, None]) -> None:
    await work


async def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return when ``condition`` holds; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


__all__ = ["FIRST_ID", "PROMPT_IDS", "Json", "VllmStub", "error", "eventually", "serving", "sse"]
