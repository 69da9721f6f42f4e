"""The caller's side of one call: reading its request, noticing that it hung up, sending it bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive, Scope, Send

from leyden_gateway.errors import BodyTimedOut, BodyTooLarge, UpstreamTimedOut

WATCH_AFTER_S = 0.02
"""Calls answered sooner are not watched for a hang-up: who leaves that early meets a finished call."""


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


class Caller:
    """One HTTP exchange over ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, stall_timeout_s: float) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """Request headers by lower-case name; of a repeated one the last."""
        self._receive, self._send = receive, send
        self._stall_timeout_s = stall_timeout_s
        self._scope: asyncio.Timeout | None = None
        self._gone = ""
        self._watching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.started = False
        """Whether the status line has been sent."""

    def header(self, name: bytes) -> str | None:
        """A request header, by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, *, limit: int, timeout_s: float) -> bytes:
        """The request's body. Raises ``BodyTooLarge``, ``BodyTimedOut`` or ``CallerGone``."""
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise BodyTooLarge(f"the request is larger than {limit} bytes")
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._receive()
                if message["type"] == "http.request" and not message.get("more_body", False):
                    first: bytes = message["body"]
                    if len(first) <= limit:
                        return first
                parts, size = [], 0
                while True:
                    if message["type"] == "http.disconnect":
                        raise CallerGone("the caller hung up while sending its request")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise BodyTooLarge(f"the request is larger than {limit} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    message = await self._receive()
        except TimeoutError:
            raise BodyTimedOut(f"the request did not arrive within {timeout_s:g} s") from None

    @contextlib.asynccontextmanager
    async def present(self, timeout_s: float) -> AsyncIterator[None]:
        """Work for as long as the caller is there, for ``timeout_s`` at most; read the body first.

        The work inside is cancelled and ``CallerGone`` or ``UpstreamTimedOut`` raised.
        """
        try:
            async with asyncio.timeout(timeout_s) as scope:
                self._scope = scope
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(WATCH_AFTER_S, self._start_watching)
                try:
                    yield
                finally:
                    self._stop_watching()
        except TimeoutError:
            if self._gone:
                raise CallerGone(self._gone) from None
            if scope.expired():
                raise UpstreamTimedOut(f"the completion took longer than {timeout_s:g} s") from None
            raise

    def _start_watching(self) -> None:
        self._watching = asyncio.create_task(self._watch())
        self._timer = None

    def _stop_watching(self) -> None:
        self._scope = None
        if self._watching is not None:
            self._watching.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave("the caller hung up")

    def _leave(self, why: str) -> None:
        self._gone = why
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers."""
        self.started = True
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of what was started. Raises ``CallerGone`` when the caller stopped reading."""
        sending = self._send({"type": "http.response.body", "body": data, "more_body": not last})
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await sending
        except TimeoutError:
            raise CallerGone(f"the caller read nothing for {self._stall_timeout_s:g} s") from None

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.write(body, last=True)
