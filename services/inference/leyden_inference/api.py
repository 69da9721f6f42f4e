"""The HTTP interface that vLLM has: chat and text completions, models, health."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from leyden_inference import metrics
from leyden_inference.answering import answered, not_found
from leyden_inference.bodies import read_body, unless_disconnected
from leyden_inference.chat import normalise
from leyden_inference.engine import Generation
from leyden_inference.errors import RequestRefused
from leyden_inference.requests import ChatRequest, CompletionFields, CompletionRequest, TokenizeRequest, parse
from leyden_inference.responses import ChatWriter, Choice, Json, TextWriter, Whole
from leyden_inference.serving import Served, Serving

_COMPOSED = 4
"""Characters that a tokenizer may make one of before it looks for tokens."""


class Api:
    """The routes over what is being served."""

    def __init__(self, serving: Serving, *, max_body_bytes: int = 8 * 1024 * 1024) -> None:
        self._serving, self._max_body_bytes = serving, max_body_bytes
        self._started = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", answered("chat", self._chat), methods=["POST"]),
                Route("/v1/completions", answered("completions", self._complete), methods=["POST"]),
                Route("/v1/models", answered("models", self._models)),
                Route("/tokenize", answered("tokenize", self._tokenize), methods=["POST"]),
                Route("/health", answered("health", self._health)),
            ],
            exception_handlers={404: not_found, 405: not_found},
        )

    async def _chat(self, request: Request) -> Response:
        asked = parse(ChatRequest, await self._json(request))
        served = self._serving.find(asked.model)
        prompt = chat_prompt(
            served,
            asked.messages,
            asked.tools,
            {**asked.chat_template_kwargs, "add_generation_prompt": asked.add_generation_prompt},
        )
        writer = ChatWriter(
            served.name,
            served.model.text.tokenizer,
            prompt,
            bool(asked.return_token_ids),
            asked.wants_logprobs,
            bool(asked.return_tokens_as_token_ids),
        )
        generation, choices = self._start(served, asked, prompt, tools=asked.parses_tools)
        if asked.stream:
            return EventStream(generation, _chat_events(generation, choices, writer, asked.include_usage))
        return JSONResponse(writer.whole(await self._whole(request, generation, choices)))

    async def _complete(self, request: Request) -> Response:
        asked = parse(CompletionRequest, await self._json(request))
        served = self._serving.find(asked.model)
        given = asked.single_prompt
        prompt = encoded(served, given, special=asked.add_special_tokens) if isinstance(given, str) else given
        writer = TextWriter(
            served.name,
            served.model.text.tokenizer,
            prompt,
            bool(asked.return_token_ids),
            asked.wants_logprobs,
            bool(asked.return_tokens_as_token_ids),
        )
        generation, choices = self._start(served, asked, prompt, tools=False)
        if asked.stream:
            return EventStream(generation, _text_events(generation, choices, writer, asked.include_usage))
        return JSONResponse(writer.whole(await self._whole(request, generation, choices)))

    def _start(
        self, served: Served, asked: CompletionFields, prompt: list[int], *, tools: bool
    ) -> tuple[Generation, list[Choice]]:
        room = room_behind(served, prompt, asked.token_limit)
        params = asked.params(served.model.defaults, room)
        generation = self._serving.engine.submit(
            served.runner, prompt, params, choices=asked.n, stream=asked.stream or bool(asked.stops)
        )
        tokenizer = served.model.text.tokenizer
        return generation, [Choice(tokenizer, asked.stops, tools=tools) for _ in range(asked.n)]

    async def _whole(self, request: Request, generation: Generation, choices: list[Choice]) -> list[Whole]:
        with generation:
            return await unless_disconnected(request.receive, _gather(generation, choices))

    async def _models(self, _request: Request) -> Response:
        data = [
            {
                "id": served.name,
                "object": "model",
                "created": self._started,
                "owned_by": "leyden",
                "max_model_len": served.model.decoder.context,
                "parent": self._serving.announced.base_of(served.name),
            }
            for served in self._serving.served()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _tokenize(self, request: Request) -> Response:
        asked = parse(TokenizeRequest, await self._json(request))
        served = self._serving.find(asked.model)
        if asked.messages is not None:
            options = {"add_generation_prompt": asked.add_generation_prompt}
            tokens = chat_prompt(served, asked.messages, asked.tools, options)
        else:
            tokens = encoded(served, asked.prompt or "", special=asked.add_special_tokens)
        limit = served.model.decoder.context
        return JSONResponse({"count": len(tokens), "max_model_len": limit, "tokens": tokens})

    async def _health(self, _request: Request) -> Response:
        reason = self._serving.engine.not_ready()
        return JSONResponse({"status": reason or "ok"}, status_code=503 if reason else 200)

    async def _json(self, request: Request) -> Any:
        body = await read_body(request, self._max_body_bytes)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestRefused(f"the body is not JSON: {error}") from None


class EventStream(Response):
    """Server-sent events of a generation, abandoned when the client goes away."""

    def __init__(self, generation: Generation, events: AsyncIterator[Json]) -> None:
        super().__init__(
            status_code=200, media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
        self._generation, self._events = generation, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every event, then ``[DONE]``."""
        with self._generation:
            try:
                await unless_disconnected(receive, self._send(send))
            except ClientDisconnect:
                metrics.DISCONNECTED.inc()

    async def _send(self, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        try:
            async for event in self._events:
                await _send_data(send, json.dumps(event, ensure_ascii=False, separators=(",", ":")))
        except RequestRefused as refusal:
            await _send_data(send, json.dumps(refusal.body()))
        await _send_data(send, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_data(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


def chat_prompt(
    served: Served, messages: list[Json], tools: list[Json] | None, options: Mapping[str, Any]
) -> list[int]:
    """Token ids of a conversation. Raises ``RequestRefused`` when the model has no chat template."""
    template = served.model.text.template
    if template is None:
        raise RequestRefused(f"{served.name} has no chat template; use /v1/completions", param="messages")
    text = template.render(normalise(messages), tools or None, options)
    return encoded(served, text)


def encoded(served: Served, text: str, *, special: bool = False) -> list[int]:
    """Token ids of a text. Raises ``RequestRefused`` for one so long that reading it would hold up others."""
    tokenizer, limit = served.model.text.tokenizer, served.model.decoder.context
    if len(text) > _COMPOSED * tokenizer.longest * limit:
        raise RequestRefused(
            f"This model's maximum context length is {limit} tokens. However, your prompt has {len(text)} "
            "characters, which are more. Please reduce the length of the prompt.",
            code="context_length_exceeded",
        )
    return tokenizer.encode(text, special=special)


def room_behind(served: Served, prompt: list[int], asked: int | None) -> int:
    """How many tokens fit behind a prompt. Raises ``RequestRefused`` when it does not fit or is empty."""
    limit, vocabulary = served.model.decoder.context, served.model.decoder.arch.vocabulary
    if not prompt:
        raise RequestRefused("the prompt is empty", param="prompt")
    if not 0 <= min(prompt) <= max(prompt) < vocabulary:
        raise RequestRefused(f"token ids must lie between 0 and {vocabulary - 1}", param="prompt")
    completion = asked or 1
    if len(prompt) + completion > limit:
        raise RequestRefused(
            f"This model's maximum context length is {limit} tokens. However, you requested "
            f"{len(prompt) + completion} tokens ({len(prompt)} in the prompt, {completion} after it). "
            "Please reduce the length of the prompt or the completion.",
            code="context_length_exceeded",
        )
    return limit - len(prompt)


async def _gather(generation: Generation, choices: list[Choice]) -> list[Whole]:
    wholes = [Whole() for _ in choices]
    async for update in generation:
        piece = choices[update.index].take(update)
        wholes[update.index].add(piece)
        if piece.finish:
            generation.abandon(update.index)
    return wholes


async def _chat_events(
    generation: Generation, choices: list[Choice], writer: ChatWriter, include_usage: bool
) -> AsyncIterator[Json]:
    yield writer.first(len(choices))
    sampled = 0
    async for update in generation:
        choice = choices[update.index]
        before = choice.calls
        piece = choice.take(update)
        if piece.finish:
            generation.abandon(update.index)
        sampled += len(piece.update.tokens)
        yield writer.chunk(piece, before)
    if include_usage:
        yield writer.last(sampled)


async def _text_events(
    generation: Generation, choices: list[Choice], writer: TextWriter, include_usage: bool
) -> AsyncIterator[Json]:
    shown = [0] * len(choices)
    begun: set[int] = set()
    sampled = 0
    async for update in generation:
        index = update.index
        piece = choices[index].take(update)
        if piece.finish:
            generation.abandon(index)
        sampled += len(piece.update.tokens)
        yield writer.chunk(piece, shown[index], first=index not in begun)
        begun.add(index)
        shown[index] += len(piece.content)
    if include_usage:
        yield writer.last(sampled)
