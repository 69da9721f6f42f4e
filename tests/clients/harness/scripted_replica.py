"""A replica that plays a script: vLLM's JSON and SSE, and prompts that grow as those of a chat template do.

A text's tokens are its words with the space before them, and an end token. Its id derives from its text
and a log-probability from its id, so a test works out from the script alone what must be recorded. Everything
asked of the replica and every byte of its answers is kept in ``seen``, to compare with what a client got.
"""

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]
END = "<end>"
_PIECES = re.compile(r"\s*[A-Za-z0-9]+|\s*[^A-Za-z0-9\s]|\s+$")
_CREATED = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the script makes; ``arguments`` is JSON text, sent as it is written here."""

    name: str
    arguments: str
    id: str = "call_1"

    def as_json(self) -> Json:
        """The call as a message carries it."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }

    def spoken(self) -> list[str]:
        """What the model samples to make the call: its name, then the pieces of its arguments."""
        return [f"<call {self.name}>", *pieces(self.arguments)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer. Alternative ``i`` (of ``n``) of a text is told apart by a last word, ``(i)``."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    finish_reason: str = ""

    def tokens(self, alternative: int = 0) -> list[str]:
        """What is sampled, the end token included unless the length limit cut it off."""
        spoken = [*pieces(self.reasoning), *pieces(self.words(alternative))]
        for call in self.calls:
            spoken += call.spoken()
        return spoken if self.finish_reason == "length" else [*spoken, END]

    def words(self, alternative: int = 0) -> str:
        """The text of one alternative."""
        return f"{self.text} ({alternative})" if alternative else self.text

    def reason(self) -> str:
        """Why it ends."""
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def deltas(self, alternative: int = 0) -> list[Json]:
        """One delta for each sampled token."""
        deltas: list[Json] = [{"reasoning": piece} for piece in pieces(self.reasoning)]
        deltas += [{"content": piece} for piece in pieces(self.words(alternative))]
        for index, call in enumerate(self.calls):
            function = {"name": call.name, "arguments": ""}
            opening = {"id": call.id, "type": "function", "index": index, "function": function}
            deltas.append({"tool_calls": [opening]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in pieces(call.arguments)
            ]
        return deltas if self.finish_reason == "length" else [*deltas, {"content": ""}]


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
    seen: list[Seen] = field(default_factory=list)

    def script(self, *turns: Turn) -> None:
        """Play these from now on, and forget what was seen."""
        self.turns = list(turns) or [Turn("The answer is 12.")]
        self.failures.clear()
        self.seen.clear()

    def app(self) -> Starlette:
        """The replica's HTTP interface."""
        posts = {"chat/completions": self.chat, "completions": self.complete, "embeddings": self.embed}
        routes = [Route(f"/v1/{path}", endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        return Starlette(routes=[Route("/v1/models", self.list_models), *routes])

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
            return _streamed(seen, _chat_chunks(seen.request, turn))
        return _whole(seen, _chat_completion(seen.request, turn))

    async def complete(self, request: Request) -> Response:
        """``/v1/completions``."""
        seen = await self._see(request)
        if failure := self._failure(seen):
            return failure
        turn = self._next_turn()
        if seen.request.get("stream"):
            return _streamed(seen, _text_chunks(seen.request, turn))
        return _whole(seen, _text_completion(seen.request, turn))

    async def embed(self, request: Request) -> Response:
        """``/v1/embeddings``."""
        seen = await self._see(request)
        return self._failure(seen) or _whole(seen, _embeddings(seen.request))

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

    def _next_turn(self) -> Turn:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


def pieces(text: str) -> list[str]:
    """The tokens of a text; together they are the text."""
    return _PIECES.findall(text)


def token_id(token: str) -> int:
    """A token's id; equal texts have equal ids."""
    return zlib.crc32(token.encode()) % 50_000


def logprob(token: str) -> float:
    """A token's log-probability."""
    return -(1 + token_id(token) % 97) / 100


def ids(tokens: Sequence[str]) -> list[int]:
    """The ids of several tokens."""
    return [token_id(token) for token in tokens]


def prompt_tokens(request: Json) -> list[str]:
    """A chat request as its template renders it; a conversation begins with the tokens of its beginning."""
    tokens = pieces(json.dumps(request["tools"])) if request.get("tools") else []
    for message in request.get("messages", ()):
        tokens += [f"<{message.get('role')}>", *_content_tokens(message.get("content"))]
        for call in message.get("tool_calls") or ():
            function = call["function"]
            tokens += Call(function["name"], function["arguments"]).spoken()
        tokens.append(END)
    return [*tokens, "<assistant>"]


def _content_tokens(content: Any) -> list[str]:
    if isinstance(content, list):
        return [piece for part in content for piece in _part_tokens(part)]
    return pieces(content or "")


def _part_tokens(part: Json) -> list[str]:
    return pieces(part["text"]) if "text" in part else [f"<{part.get('type')}>"]


def events(stream: bytes) -> list[str]:
    """The data of each server-sent event."""
    return [line.removeprefix("data: ") for line in stream.decode().split("\n\n") if line]


def _asks_ids(request: Json) -> bool:
    return request.get("return_token_ids") is True


def _chat_logprobs(request: Json, tokens: Sequence[str]) -> Json | None:
    if not request.get("logprobs"):
        return None
    return {"content": [_chat_logprob(token, request.get("top_logprobs") or 0) for token in tokens]}


def _chat_logprob(token: str, alternatives: int) -> Json:
    own = {"token": token, "logprob": logprob(token), "bytes": list(token.encode())}
    others = [{"token": f"{token}~{rank}", "logprob": -9.0 - rank, "bytes": None} for rank in range(1, 20)]
    return {**own, "top_logprobs": [own, *others][:alternatives]}


def _usage(prompt: int, sampled: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + sampled,
        "completion_tokens": sampled,
        "prompt_tokens_details": None,
    }


def _chat_completion(request: Json, turn: Turn) -> Json:
    prompt, n = prompt_tokens(request), request.get("n") or 1
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": turn.words(index) or None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                **({"tool_calls": [call.as_json() for call in turn.calls]} if turn.calls else {}),
                "reasoning": turn.reasoning or None,
            },
            "logprobs": _chat_logprobs(request, turn.tokens(index)),
            "finish_reason": turn.reason(),
            "stop_reason": None,
            "token_ids": ids(turn.tokens(index)) if _asks_ids(request) else None,
        }
        for index in range(n)
    ]
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(len(prompt), sum(len(turn.tokens(index)) for index in range(n))),
        "prompt_logprobs": None,
        "prompt_token_ids": ids(prompt) if _asks_ids(request) else None,
        "kv_transfer_params": None,
    }


def _chat_chunks(request: Json, turn: Turn) -> Iterator[Json]:
    head = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": request["model"],
    }
    prompt, n = prompt_tokens(request), request.get("n") or 1
    for index in range(n):
        opening = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        yield {
            **head,
            "choices": [opening],
            **({"prompt_token_ids": ids(prompt)} if _asks_ids(request) else {}),
        }
    spoken = [turn.tokens(index) for index in range(n)]
    deltas = [turn.deltas(index) for index in range(n)]
    for position in range(max(map(len, spoken))):
        for index in range(n):
            if position < len(spoken[index]):
                last = position == len(spoken[index]) - 1
                reason = turn.reason() if last else None
                choice = _chat_chunk(request, deltas[index][position], spoken[index][position], reason)
                yield {**head, "choices": [{"index": index, **choice}]}
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(len(prompt), sum(map(len, spoken)))}


def _chat_chunk(request: Json, delta: Json, token: str, reason: str | None) -> Json:
    return {
        "delta": delta,
        "logprobs": _chat_logprobs(request, [token]),
        "finish_reason": reason,
        **({"stop_reason": None} if reason else {}),
        **({"token_ids": ids([token])} if _asks_ids(request) else {}),
    }


def prompt_ids(prompt: Any) -> list[list[int]]:
    """The ids of each prompt of a text completion: texts, or ids as they are."""
    if isinstance(prompt, str):
        return [ids(pieces(prompt))]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    return [ids(pieces(one)) if isinstance(one, str) else one for one in prompt]


def _text_logprobs(request: Json, tokens: Sequence[str]) -> Json | None:
    """The older shape: parallel lists. 0 asks for the sampled token's alone."""
    if not isinstance(request.get("logprobs"), int) or isinstance(request["logprobs"], bool):
        return None
    return {
        "text_offset": [len("".join(tokens[:index])) for index in range(len(tokens))],
        "token_logprobs": [logprob(token) for token in tokens],
        "tokens": list(tokens),
        "top_logprobs": [{token: logprob(token)} for token in tokens],
    }


def _text_completion(request: Json, turn: Turn) -> Json:
    prompts, n = prompt_ids(request["prompt"]), request.get("n") or 1
    choices = [
        {
            "index": index,
            "text": turn.words(index),
            "logprobs": _text_logprobs(request, turn.tokens(index)),
            "finish_reason": turn.reason(),
            "stop_reason": None,
            "token_ids": ids(turn.tokens(index)) if _asks_ids(request) else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompts[index // n] if _asks_ids(request) else None,
        }
        for index in range(len(prompts) * n)
    ]
    sampled = sum(len(turn.tokens(index)) for index in range(len(choices)))
    return {
        **_text_head(request),
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(sum(map(len, prompts)), sampled),
        "kv_transfer_params": None,
    }


def _text_head(request: Json) -> Json:
    return {
        "id": "cmpl-scripted",
        "object": "text_completion",
        "created": _CREATED,
        "model": request["model"],
    }


def _text_chunks(request: Json, turn: Turn) -> Iterator[Json]:
    prompts, n = prompt_ids(request["prompt"]), request.get("n") or 1
    sampled = 0
    for index in range(len(prompts) * n):
        tokens = turn.tokens(index)
        sampled += len(tokens)
        for position, token in enumerate(tokens):
            last = position == len(tokens) - 1
            choice = {
                "index": index,
                "text": "" if token == END else token,
                "logprobs": _text_logprobs(request, [token]),
                "finish_reason": turn.reason() if last else None,
                "stop_reason": None,
                "prompt_token_ids": prompts[index // n] if _asks_ids(request) and not position else None,
                "token_ids": ids([token]) if _asks_ids(request) else None,
            }
            yield {**_text_head(request), "choices": [choice], "usage": None}
    if (request.get("stream_options") or {}).get("include_usage"):
        usage = _usage(sum(map(len, prompts)), sampled)
        yield {**_text_head(request), "choices": [], "usage": usage}


def embedding(text: str) -> list[float]:
    """A text's vector; its numbers are exact in 32 bits."""
    return [token_id(f"{text}/{dimension}") / 65536 for dimension in range(4)]


def _embeddings(request: Json) -> Json:
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    vectors: list[Any] = [embedding(str(text)) for text in texts]
    if request.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<4f", *vector)).decode() for vector in vectors]
    count = sum(len(pieces(str(text))) for text in texts)
    return {
        "id": "embd-scripted",
        "object": "list",
        "created": _CREATED,
        "model": request["model"],
        "data": [
            {"index": index, "object": "embedding", "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {**_usage(count, 0)},
    }


def _dump(payload: Json) -> bytes:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()


def _whole(seen: Seen, payload: Json) -> Response:
    seen.answer = _dump(payload)
    return Response(seen.answer, media_type="application/json")


def _streamed(seen: Seen, chunks: Iterator[Json]) -> Response:
    data = [b"data: " + _dump(chunk) + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"]
    seen.answer = b"".join(data)
    return StreamingResponse(iter(data), media_type="text/event-stream; charset=utf-8")


def _error(status: int, message: str, kind: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)
