"""The stub upstream, ``python -m gateway_bench.stub PLAN``: prebuilt answers and just enough HTTP.

It must cost far less than any gateway in front of it, so requests are not parsed beyond their length.
"""

import asyncio
import gc
import sys
from dataclasses import dataclass
from itertools import count
from typing import cast

import msgspec
import uvloop

from gateway_bench.payload import (
    FIRST_ID,
    MODEL,
    PROMPT_TOKENS,
    SAMPLED_TOKENS,
    chunks,
    compact,
    prompt_ids,
    whole,
)
from gateway_bench.trajectory import Conversation

_BACKLOG = 8192
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NO_LENGTH = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class StubPlan:
    """How the stub answers. ``interval_s`` lies between two chunks of a stream; 0 is as fast as it can."""

    port: int
    interval_s: float = 0.0
    tokens: int = SAMPLED_TOKENS
    conversation: Conversation | None = None


class Answers:
    """Prebuilt bytes. A number that differs from answer to answer is put in for the first prompt id."""

    def __init__(self, plan: StubPlan) -> None:
        self.interval_s, self.conversation = plan.interval_s, plan.conversation
        prompt = [FIRST_ID, *prompt_ids(range(1, PROMPT_TOKENS))]
        sampled = range(PROMPT_TOKENS, PROMPT_TOKENS + plan.tokens)
        marker = b'"prompt_token_ids":[%d' % FIRST_ID
        body = compact(whole(prompt, sampled))
        self._before, _, self._after = (_JSON % len(body) + body).partition(marker)
        events = [b"data: %b\n\n" % compact(event) for event in chunks(prompt, sampled)]
        framed = [b"%x\r\n%b\r\n" % (len(event), event) for event in [*events, b"data: [DONE]\n\n"]]
        self._stream_before, _, self._stream_after = (_SSE + framed[0]).partition(marker)
        self.rest = [*framed[1:-1], framed[-1] + b"0\r\n\r\n"]
        models = compact({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "stub"}]})
        self.models = _JSON % len(models) + models
        self._numbers = count(1)

    def _marker(self) -> bytes:
        return b'"prompt_token_ids":[%d' % (FIRST_ID + next(self._numbers) % 900_000)

    def whole(self, request: bytes) -> bytes:
        """A completion in one piece."""
        if self.conversation:
            body = self.conversation.answer(request)
            return _JSON % len(body) + body
        return self._before + self._marker() + self._after

    def first(self) -> bytes:
        """The head and the first chunk of a stream; ``rest`` follows."""
        return self._stream_before + self._marker() + self._stream_after


class StubProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self._answers, self._loop = answers, loop
        self._buffer = b""
        self._transport: asyncio.Transport
        self._position = 0
        self._next: asyncio.Handle | None = None
        self._streaming = self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Nobody reads the stream any more."""
        self._cancel()

    def pause_writing(self) -> None:
        """A slow reader: the stream waits."""
        self._paused = True
        self._cancel()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        if self._streaming:
            self._schedule()

    def data_received(self, data: bytes) -> None:
        """Frame requests by their length and answer each."""
        data = self._buffer + data if self._buffer else data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            length = content_length(data[:head])
            if length is None:
                self._transport.write(_NO_LENGTH)
                self._transport.close()
                return
            end = head + 4 + length
            if len(data) < end:
                break
            self._answer(data[:4], data[head + 4 : end])
            data = data[end:]
        self._buffer = data

    def _answer(self, method: bytes, body: bytes) -> None:
        if method == b"GET ":
            self._transport.write(self._answers.models)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._position, self._streaming = 0, True
            self._transport.write(self._answers.first())
            if not self._paused:
                self._schedule()
        else:
            self._transport.write(self._answers.whole(body))

    def _schedule(self) -> None:
        if interval_s := self._answers.interval_s:
            self._next = self._loop.call_later(interval_s, self._chunk)
        else:
            self._next = self._loop.call_soon(self._chunk)

    def _chunk(self) -> None:
        self._transport.write(self._answers.rest[self._position])
        self._position += 1
        if self._position == len(self._answers.rest):
            self._streaming, self._next = False, None
        elif not self._paused:
            self._schedule()

    def _cancel(self) -> None:
        if self._next:
            self._next.cancel()
            self._next = None


def content_length(head: bytes) -> int | None:
    """The Content-Length of a request head, 0 without; None for a chunked body, which is not read."""
    lower = head.lower()
    start = lower.find(b"\r\ncontent-length:")
    if start >= 0:
        return int(lower[start + 17 :].split(b"\r\n", 1)[0])
    return None if b"\r\ntransfer-encoding:" in lower else 0


async def serve(plan: StubPlan) -> None:
    """Answer until killed."""
    loop = asyncio.get_running_loop()
    answers = Answers(plan)
    server = await loop.create_server(
        lambda: StubProtocol(answers, loop), "127.0.0.1", plan.port, backlog=_BACKLOG
    )
    gc.freeze()
    gc.disable()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(msgspec.json.decode(sys.argv[1], type=StubPlan)))
