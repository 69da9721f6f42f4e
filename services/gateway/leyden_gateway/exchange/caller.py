"""The caller's side of one call: reading its request, noticing that it hung up, sending it bytes."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from math import inf
from types import TracebackType
from typing import Self

from starlette.types import Receive, Scope, Send

from leyden_gateway.errors import ApiError, BodyTooLarge, EncodingNotSupported
from leyden_gateway.metrics import NOBODY

WATCH_AFTER_S = 0.02
"""Calls answered sooner are not watched for a hang-up: who leaves that early meets a finished call."""

SKIPPED_BYTES = 64 * 1024
"""Of a request that is answered without being read, so much is received for the connection to be kept."""

LINGER_S, LINGER_IDLE_S, LINGER_BYTES = 10.0, 1.0, 32 * 1024 * 1024
"""How long, and for how much, a caller that was refused may go on sending: most clients look for an answer
only when they have sent everything, and a closed connection would take it from them."""


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


class Caller:
    """One HTTP exchange over ASGI. Its request is answered inside ``async with``, its end sent after it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, stall_timeout_s: float) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """Request headers by lower-case name; of a repeated one the last, except for W3C's lists."""
        if len(self.headers) != len(scope["headers"]):
            self.headers |= _lists(scope["headers"])
        self._receive, self._send = receive, send
        self._unread: float = _announced(self.headers)
        """Bytes of the request that may still come."""
        self._stall_timeout_s = stall_timeout_s
        self._scope: asyncio.Timeout | None = None
        self._gone = ""
        self._late: ApiError | None = None
        self._watching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._writing_since: float | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.started = False
        """Whether the status line has been sent."""
        self.taken = self.given = 0
        """Bytes of the request's body that arrived, and of the answer's that were sent."""
        self.served = NOBODY
        """Who answered, as metrics name it."""

    def header(self, name: bytes) -> str | None:
        """A request header, by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, *, limit: int) -> bytes:
        """The request's body. Raises ``EncodingNotSupported``, ``BodyTooLarge`` or ``CallerGone``."""
        encoding = (self.header(b"content-encoding") or "").strip().lower()
        if encoding not in ("", "identity"):
            raise EncodingNotSupported(
                f"the request's body is encoded as {encoding[:80]!r}; send it without a content-encoding"
            )
        if limit < self._unread < inf:
            raise BodyTooLarge(f"the request is larger than {limit} bytes")
        self._unread = inf
        parts, more = [], True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerGone("the caller hung up while sending its request")
            parts.append(message.get("body", b""))
            self.taken += len(parts[-1])
            more = message.get("more_body", False)
            if self.taken > limit:
                raise BodyTooLarge(f"the request is larger than {limit} bytes")
        self._unread = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def __aenter__(self) -> Self:
        """Nothing waits for ever: ``expect`` says for how long, and what is raised after it."""
        self._scope = asyncio.timeout(None)
        await self._scope.__aenter__()
        return self

    def expect(self, within_s: float, otherwise: ApiError) -> None:
        """Raise ``otherwise`` inside the block unless it ends, or expects something else, in time."""
        assert self._scope is not None
        self._late = otherwise
        self._scope.reschedule(self._loop.time() + within_s)

    def watch(self) -> None:
        """From now on a hang-up ends the block with ``CallerGone``; the body must have been read."""
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._start_watching)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope, self._scope = self._scope, None
        self._stop_watching()
        assert scope is not None
        try:
            await scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise (CallerGone(self._gone) if self._gone else self._late or TimeoutError()) from None

    def _start_watching(self) -> None:
        self._watching = asyncio.create_task(self._watch())
        self._timer = None

    def _stop_watching(self) -> None:
        for watch in (self._watching, self._timer, self._stall_timer):
            if watch is not None:
                watch.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave("the caller hung up")

    def _leave(self, why: str) -> None:
        if self._gone:
            return
        self._gone = why
        if self._scope is not None:
            self._scope.reschedule(self._loop.time())

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers; the connection ends if much of the request may still come."""
        self.started = True
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        if self._unread > SKIPPED_BYTES:
            encoded.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of what was started. Raises ``CallerGone`` when the caller stopped reading."""
        message = {"type": "http.response.body", "body": data, "more_body": not last}
        self.given += len(data)
        if self._scope is not None:
            self._writing_since = self._loop.time()
            if self._stall_timer is None:
                self._stall_timer = self._loop.call_later(self._stall_timeout_s, self._look)
            await self._send(message)
            self._writing_since = None
            return
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await self._send(message)
        except TimeoutError:
            raise CallerGone(self._stalled) from None

    def _look(self) -> None:
        """The watch over all writes of a stream: the one going on must not take longer than the limit."""
        since, now = self._writing_since, self._loop.time()
        ends = now + self._stall_timeout_s if since is None else since + self._stall_timeout_s
        if ends <= now:
            self._leave(self._stalled)
        else:
            self._stall_timer = self._loop.call_at(ends, self._look)

    @property
    def _stalled(self) -> str:
        return f"the caller read nothing for {self._stall_timeout_s:g} s"

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        if self._unread > SKIPPED_BYTES:
            await self.write(body)
            await self._linger()
            body = b""
        await self.write(body, last=True)

    async def _linger(self) -> None:
        """Receive a little more of the request, for nobody."""
        loop = asyncio.get_running_loop()
        latest, skipped, more = loop.time() + LINGER_S, 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_IDLE_S) as idle:
                while more and skipped < LINGER_BYTES:
                    message = await self._receive()
                    skipped += len(message.get("body", b""))
                    more = message.get("more_body", False)
                    idle.reschedule(min(latest, loop.time() + LINGER_IDLE_S))


def _lists(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers that may come in several lines, which are one list together."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"baggage", b"tracestate"):
            found[name] = b"%b,%b" % (found[name], value) if name in found else value
    return found


def _announced(headers: Mapping[bytes, bytes]) -> float:
    """The bytes that a request's body will have, infinite if it does not say."""
    if b"transfer-encoding" in headers:
        return inf
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0
