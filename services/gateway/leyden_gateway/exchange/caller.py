"""The caller's side of one call: reading its request, noticing that it hung up, sending it bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from leyden_gateway.errors import ApiError, BodyTimedOut, BodyTooLarge, UpstreamTimedOut


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


class Caller:
    """One HTTP exchange over ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, stall_timeout_s: float) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._stall_timeout_s = stall_timeout_s
        self._gone = False
        self.started = False
        """Whether the status line has been sent."""

    def header(self, name: str) -> str | None:
        """A request header, by its lower-case name."""
        wanted = name.encode()
        for key, value in self._scope["headers"]:
            if key == wanted:
                return bytes(value).decode("latin-1")
        return None

    async def body(self, *, limit: int, timeout_s: float) -> bytes:
        """The request's body. Raises ``BodyTooLarge``, ``BodyTimedOut`` or ``CallerGone``."""
        too_large = BodyTooLarge(f"the request is larger than {limit} bytes")
        length = self.header("content-length")
        if length is not None and length.isdecimal() and int(length) > limit:
            raise too_large
        try:
            async with asyncio.timeout(timeout_s):
                parts, size, more = [], 0, True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise CallerGone("the caller hung up while sending its request")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > limit:
                        raise too_large
                return b"".join(parts)
        except TimeoutError:
            raise BodyTimedOut(f"the request did not arrive within {timeout_s:g} s") from None

    @contextlib.asynccontextmanager
    async def present(self, timeout_s: float) -> AsyncIterator[None]:
        """Work for as long as the caller is there, for ``timeout_s`` at most; read the body first.

        The work inside is cancelled and ``CallerGone`` or ``UpstreamTimedOut`` raised.
        """
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                watching = asyncio.create_task(self._watch(scope))
                try:
                    yield
                finally:
                    watching.cancel()
        except TimeoutError:
            if self._gone:
                raise CallerGone("the caller hung up") from None
            if scope.expired():
                raise UpstreamTimedOut(f"the completion took longer than {timeout_s:g} s") from None
            raise

    async def _watch(self, scope: asyncio.Timeout) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        scope.reschedule(asyncio.get_running_loop().time())

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers of a stream."""
        self.started = True
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of a started stream. Raises ``CallerGone`` when the caller stopped reading."""
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except TimeoutError:
            raise CallerGone(f"the caller read nothing for {self._stall_timeout_s:g} s") from None

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.write(body, last=True)

    async def refuse(self, error: ApiError, headers: Mapping[str, str] | None = None) -> None:
        """Send an error as a whole answer."""
        own = {"content-type": "application/json", **error.headers()}
        await self.reply(error.status, {**(headers or {}), **own}, to_json(error.body()))
