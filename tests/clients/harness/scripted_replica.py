"""A replica that plays a script as vLLM would.

Everything asked of it and every byte of its answers is kept in ``seen``, to compare with what a client got.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from replica_script import Json, Turn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from vllm_wire import chat_chunks, chat_completion, embeddings, text_chunks, text_completion, tokenized


@dataclass(slots=True)
class Seen:
    """One request, and the bytes it was answered with."""

    path: str
    headers: dict[str, str]
    request: Json
    answer: bytes = b""

    def sent(self) -> Json:
        """The whole answer."""
        answer: Json = json.loads(self.answer)
        return answer

    def chunks(self) -> list[Json]:
        """The events of a streamed answer."""
        return [json.loads(event) for event in events(self.answer) if event != "[DONE]"]


@dataclass(slots=True)
class ScriptedReplica:
    """Plays ``turns`` one after the other, the last of them for ever."""

    models: set[str] = field(default_factory=set)
    turns: list[Turn] = field(default_factory=lambda: [Turn("The answer is 12.")])
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Statuses and messages to answer the next requests with."""
    cut_after: int | None = None
    """Streams end, without a word, after so many chunks."""
    seen: list[Seen] = field(default_factory=list)

    def script(self, *turns: Turn) -> None:
        """Play these from now on, and forget what was seen."""
        self.turns = list(turns) or [Turn("The answer is 12.")]
        self.cut_after = None
        self.failures.clear()
        self.seen.clear()

    def app(self) -> Starlette:
        """The replica's HTTP interface."""
        posts = {"chat/completions": self.chat, "completions": self.complete, "embeddings": self.embed}
        routes = [Route(f"/v1/{path}", endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        tokenize = Route("/tokenize", self.tokenize, methods=["POST"])
        return Starlette(routes=[Route("/v1/models", self.list_models), tokenize, *routes])

    async def list_models(self, _request: Request) -> Response:
        """The models that are loaded."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def chat(self, request: Request) -> Response:
        """``/v1/chat/completions``."""
        seen = await self._see(request)
        if failure := self._failure(seen):
            return failure
        turn = self._next_turn()
        if seen.request.get("stream"):
            return self._streamed(seen, chat_chunks(seen.request, turn))
        return _whole(seen, chat_completion(seen.request, turn))

    async def complete(self, request: Request) -> Response:
        """``/v1/completions``."""
        seen = await self._see(request)
        if failure := self._failure(seen):
            return failure
        turn = self._next_turn()
        if seen.request.get("stream"):
            return self._streamed(seen, text_chunks(seen.request, turn))
        return _whole(seen, text_completion(seen.request, turn))

    async def embed(self, request: Request) -> Response:
        """``/v1/embeddings``."""
        seen = await self._see(request)
        return self._failure(seen) or _whole(seen, embeddings(seen.request))

    async def tokenize(self, request: Request) -> Response:
        """``/tokenize``."""
        seen = await self._see(request)
        return self._failure(seen) or _whole(seen, tokenized(seen.request))

    async def _see(self, request: Request) -> Seen:
        seen = Seen(request.url.path, dict(request.headers), await request.json())
        self.seen.append(seen)
        return seen

    def _failure(self, seen: Seen) -> Response | None:
        model = seen.request.get("model")
        if model not in self.models:
            return _error(404, f"The model `{model}` does not exist.", "NotFoundError")
        if self.failures:
            status, message = self.failures.pop(0)
            return _error(status, message, "BadRequestError" if status < 500 else "InternalServerError")
        return None

    def _streamed(self, seen: Seen, chunks: Iterator[Json]) -> Response:
        data = [b"data: " + _dump(chunk) + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]
        seen.answer = b"".join(data[: self.cut_after])
        return StreamingResponse(iter(data[: self.cut_after]), media_type="text/event-stream; charset=utf-8")

    def _next_turn(self) -> Turn:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


def events(stream: bytes) -> list[str]:
    """The data of each server-sent event."""
    return [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]


def _dump(payload: Json) -> bytes:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()


def _whole(seen: Seen, payload: Json) -> Response:
    seen.answer = _dump(payload)
    return Response(seen.answer, media_type="application/json")


def _error(status: int, message: str, kind: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)
