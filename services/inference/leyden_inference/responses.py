"""What clients get: OpenAI objects with vLLM's token ids, whole or as chunks of a stream."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from leyden_inference.engine import Update
from leyden_inference.text import Detokenizer, StopScanner, Tokenizer
from leyden_inference.tools import ToolCall, ToolParser

Json = dict[str, Any]

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks; vLLM writes the same."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one update adds to a choice, as text."""

    update: Update
    content: str
    calls: list[ToolCall]
    finish: str | None


class Choice:
    """Turns the tokens of one choice into content and tool calls, and sees stop strings."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], *, tools: bool) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._scanner = StopScanner(stops)
        self._parser = ToolParser() if tools else None
        self._stops = bool(stops)
        self.calls = 0

    def take(self, update: Update) -> Piece:
        """The text of an update. After a stop string its tokens end with the one that completed it."""
        spoken = update.tokens[:-1] if update.finished == "stop" else update.tokens
        text = ""
        if self._stops:
            for count, token in enumerate(spoken, start=1):
                text += self._scanner.push(self._detokenizer.push([token]))
                if self._scanner.matched is not None:
                    update = _first_tokens(update, count)
                    break
        else:
            text = self._detokenizer.push(spoken)
        if update.finished and self._scanner.matched is None:
            text += self._scanner.push(self._detokenizer.flush()) + self._scanner.flush()
        content, calls = self._split(text, final=update.finished is not None)
        self.calls += len(calls)
        return Piece(update, content, calls, self._finish(update))

    def _split(self, text: str, *, final: bool) -> tuple[str, list[ToolCall]]:
        if self._parser is None:
            return text, []
        content, calls = self._parser.push(text)
        if final:
            rest, last = self._parser.flush()
            return content + rest, calls + last
        return content, calls

    def _finish(self, update: Update) -> str | None:
        return "tool_calls" if update.finished == "stop" and self.calls else update.finished


def _first_tokens(update: Update, count: int) -> Update:
    return replace(
        update,
        tokens=update.tokens[:count],
        logprobs=update.logprobs[:count],
        top=update.top[:count],
        finished="stop",
    )


@dataclass(slots=True)
class Whole:
    """One choice of a response that is not streamed, put together from its pieces."""

    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.content += piece.content
        self.calls += piece.calls
        self.tokens += piece.update.tokens
        self.logprobs += piece.update.logprobs
        self.top += piece.update.top
        self.finish = piece.finish


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the objects of one response."""

    model: str
    tokenizer: Tokenizer
    prompt: list[int]
    with_ids: bool
    with_logprobs: bool
    as_ids: bool = False
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def usage(self, completion_tokens: int) -> Json:
        """Token counts."""
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": completion_tokens,
            "total_tokens": len(self.prompt) + completion_tokens,
        }

    def _head(self, prefix: str, kind: str) -> Json:
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _ids(self, tokens: list[int]) -> Json:
        return {"token_ids": tokens} if self.with_ids else {}

    def _piece(self, token: int) -> str:
        return f"token_id:{token}" if self.as_ids else self.tokenizer.piece(token)


class ChatWriter(Writer):
    """``chat.completion`` and its chunks."""

    def whole(self, choices: Sequence[Whole]) -> Json:
        """The response that is not streamed."""
        body = self._head("chatcmpl", "chat.completion")
        body["choices"] = [self._choice(index, choice) for index, choice in enumerate(choices)]
        body["usage"] = self.usage(sum(len(choice.tokens) for choice in choices))
        if self.with_ids:
            body["prompt_token_ids"] = self.prompt
        return body

    def first(self, choices: int) -> Json:
        """The chunk before any token: the role of every choice, and the prompt's ids."""
        body = self._chunk(
            [
                {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
                for index in range(choices)
            ]
        )
        if self.with_ids:
            body["prompt_token_ids"] = self.prompt
        return body

    def chunk(self, piece: Piece, calls_before: int) -> Json:
        """The chunk of one update; it carries the update's ids also when no text can be shown yet."""
        delta: Json = {"content": piece.content} if piece.content or not piece.calls else {}
        if piece.calls:
            delta["tool_calls"] = [
                {"index": calls_before + offset, **call.as_json()} for offset, call in enumerate(piece.calls)
            ]
        update = piece.update
        choice = {
            "index": update.index,
            "delta": delta,
            "logprobs": self._logprobs(update.tokens, update.logprobs, update.top),
            "finish_reason": piece.finish,
            **self._ids(update.tokens),
        }
        return self._chunk([choice])

    def last(self, completion_tokens: int) -> Json:
        """The chunk of token counts."""
        return {**self._chunk([]), "usage": self.usage(completion_tokens)}

    def _chunk(self, choices: list[Json]) -> Json:
        return {**self._head("chatcmpl", "chat.completion.chunk"), "choices": choices}

    def _choice(self, index: int, choice: Whole) -> Json:
        message: Json = {"role": "assistant", "content": choice.content or None}
        if choice.calls:
            message["tool_calls"] = [call.as_json() for call in choice.calls]
        elif not choice.content:
            message["content"] = ""
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice.tokens, choice.logprobs, choice.top),
            "finish_reason": choice.finish,
            "stop_reason": None,
            **self._ids(choice.tokens),
        }

    def _logprobs(
        self, tokens: list[int], logprobs: list[float], top: list[list[tuple[int, float]]]
    ) -> Json | None:
        if not self.with_logprobs:
            return None
        entries = []
        for index, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            likeliest = top[index] if top else []
            entry = self._entry(token, logprob)
            entry["top_logprobs"] = [self._entry(other, value) for other, value in likeliest]
            entries.append(entry)
        return {"content": entries}

    def _entry(self, token: int, logprob: float) -> Json:
        piece = self._piece(token)
        return {"token": piece, "logprob": max(logprob, _LOWEST), "bytes": list(piece.encode())}


class TextWriter(Writer):
    """``text_completion``, whose chunks have the same form."""

    def whole(self, choices: Sequence[Whole]) -> Json:
        """The response that is not streamed."""
        body = self._body([self._choice(index, choice, 0) for index, choice in enumerate(choices)])
        body["usage"] = self.usage(sum(len(choice.tokens) for choice in choices))
        return body

    def chunk(self, piece: Piece, offset: int, *, first: bool) -> Json:
        """The chunk of one update; ``offset`` counts the characters before it."""
        update = piece.update
        whole = Whole(piece.content, [], update.tokens, update.logprobs, update.top, piece.finish)
        choice = self._choice(update.index, whole, offset)
        if not first:
            choice.pop("prompt_token_ids", None)
        return self._body([choice])

    def last(self, completion_tokens: int) -> Json:
        """The chunk of token counts."""
        return {**self._body([]), "usage": self.usage(completion_tokens)}

    def _body(self, choices: list[Json]) -> Json:
        return {**self._head("cmpl", "text_completion"), "choices": choices}

    def _choice(self, index: int, choice: Whole, offset: int) -> Json:
        result: Json = {
            "index": index,
            "text": choice.content,
            "logprobs": self._logprobs(choice, offset) if self.with_logprobs else None,
            "finish_reason": choice.finish,
            "stop_reason": None,
            **self._ids(choice.tokens),
        }
        if self.with_ids:
            result["prompt_token_ids"] = self.prompt
        return result

    def _logprobs(self, choice: Whole, offset: int) -> Json:
        pieces = [self._piece(token) for token in choice.tokens]
        likeliest = [{self._piece(t): max(v, _LOWEST) for t, v in top} for top in choice.top]
        return {
            "text_offset": list(_offsets(pieces, offset)),
            "token_logprobs": [max(logprob, _LOWEST) for logprob in choice.logprobs],
            "tokens": pieces,
            "top_logprobs": likeliest or None,
        }


def _offsets(pieces: Sequence[str], start: int) -> Iterator[int]:
    for piece in pieces:
        yield start
        start += len(piece)
