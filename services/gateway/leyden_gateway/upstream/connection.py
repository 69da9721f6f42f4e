"""One HTTP/1.1 connection to a server: a request goes out, an answer is parsed as its bytes arrive.

The grammar is llhttp's (through httptools); what is here is the exchange around it: one at a time, with
back-pressure, a watch over silence, and a clear end. docs/adr/0005 says why this is not a client library.
"""

import asyncio
from typing import Protocol, cast

import httptools

HIGH_WATER = 256 * 1024
"""Bytes of an answer that may wait to be read before the server is made to wait."""

HEAD_LIMIT = 256 * 1024
"""Bytes that may come before an answer's headers are complete."""

Headers = list[tuple[bytes, bytes]]


class Owner(Protocol):
    """Who keeps connections: told when one can be used again and when one is gone."""

    def released(self, connection: "Connection") -> None:
        """The exchange ended cleanly and the server keeps the connection open."""
        ...

    def lost(self, connection: "Connection") -> None:
        """The connection is closed."""
        ...


class ConnectionLost(Exception):
    """The server closed, or the connection broke, before the answer had ended."""


class FellSilent(Exception):
    """Nothing arrived for longer than the stall timeout."""


class NotHttp(Exception):
    """What arrived is not an HTTP/1.1 answer."""


class Connection(asyncio.Protocol):
    """Speaks with one server. ``send``, then ``head``, then ``read`` until it gives nothing.

    ``head`` and ``read`` raise ``ConnectionLost``, ``FellSilent`` or ``NotHttp``.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._watch: asyncio.TimerHandle | None = None
        """Outlives an exchange: one that fires too early is set again, which is rare and cheap."""
        self._reset()

    def _reset(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._wants_all = False
        self._failure: Exception | None = None
        self._head_size = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._until_closed = True
        self._keep_alive = False
        self.status = 0
        self.headers: Headers = []
        self.begun = False
        """Whether the status line and headers of the answer have arrived."""
        self.complete = False
        """Whether the answer has arrived to its end."""

    @property
    def usable(self) -> bool:
        """Whether another exchange may start."""
        return not self._closed and self._parser is None

    # The exchange.

    def send(self, request: bytes, *, stall_timeout_s: float) -> None:
        """Write a request. Raises ``ConnectionLost`` when the server has closed meanwhile."""
        if self._closed or self._transport is None or self._transport.is_closing():
            raise ConnectionLost("the server had closed the connection")
        self._parser = httptools.HttpResponseParser(self)
        self._stall_timeout_s = stall_timeout_s
        self._touched = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(stall_timeout_s, self._look)
        self._transport.write(request)

    async def head(self) -> None:
        """Wait for the status line and the headers."""
        while not self.begun:
            await self._wait()

    async def read(self, *, everything: bool = False) -> bytes:
        """What has arrived since the last call, waiting for something; empty at the end.

        With ``everything``, waits until all has arrived or the buffer is full.
        """
        self._wants_all = everything
        while not self._ready(everything):
            await self._wait()
        return self._take()

    def _ready(self, everything: bool) -> bool:
        return self.complete or self._paused or bool(self._chunks and not everything)

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._touched = self._loop.time()
            if self._transport is not None:
                self._transport.resume_reading()
        return data

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def end(self, *, linger_s: float = 0.0) -> None:
        """Finish the exchange: the connection is kept if the answer is complete, else given up.

        An answer that is all but complete (a stream after its last event) gets ``linger_s`` to end.
        """
        if self.complete:
            self._finish()
        elif linger_s and not self._closed and self._failure is None:
            self._chunks.clear()
            self._lingering = self._loop.call_later(linger_s, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        keep = self._keep_alive and not self._closed
        if self._lingering is not None:
            self._lingering.cancel()
        self._reset()
        if keep:
            self._owner.released(self)
        else:
            self.abort()

    def _cancel_timers(self) -> None:
        for timer in (self._watch, self._lingering):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        """The watch: silent for too long, unless it is we who made the server wait."""
        self._watch = None
        if self._parser is None:
            return
        silent_s = self._loop.time() - self._touched
        if self._paused or silent_s < self._stall_timeout_s - 0.001:
            wait_s = self._stall_timeout_s if self._paused else self._stall_timeout_s - silent_s
            self._watch = self._loop.call_later(wait_s, self._look)
        elif not self.complete:
            self._fail(FellSilent(f"nothing arrived for {self._stall_timeout_s:g} s"))
            self.abort()

    def _fail(self, failure: Exception) -> None:
        if self._failure is None and not self.complete:
            self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._failure is not None:
                self._waiter.set_exception(self._failure)
            else:
                self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._parser is None or self.complete:
            self._closed = True
            self.abort()
            return
        self._touched = self._loop.time()
        try:
            self._parser.feed_data(data)
            self._check_head(len(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, NotHttp) as error:
            self._fail(NotHttp(f"not an HTTP answer: {error}"))
            self._closed = True
            self.abort()
            return
        if self._buffered > HIGH_WATER and not self._paused and not self.complete:
            self._paused = True
            cast("asyncio.Transport", self._transport).pause_reading()
        if self.complete and self._lingering is not None:
            self._finish()
        elif not self._wants_all or self.complete or self._paused:
            self._wake()

    def _check_head(self, size: int) -> None:
        if not self.begun:
            self._head_size += size
            if self._head_size > HEAD_LIMIT:
                raise NotHttp(f"its headers are larger than {HEAD_LIMIT} bytes")

    def eof_received(self) -> bool:
        """Called by the loop: an answer without a length ends with the connection."""
        self._closed = True
        self._end_of_input()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._closed = True
        self._cancel_timers()
        if exc is None:
            self._end_of_input()
        else:
            self._fail(ConnectionLost(str(exc) or type(exc).__name__))
        self._owner.lost(self)

    def _end_of_input(self) -> None:
        if self.begun and self._until_closed and self._failure is None:
            self.complete = True
        if self.complete:
            self._wake()
        else:
            self._fail(ConnectionLost("the server closed the connection"))

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if self.begun:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._until_closed = False
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser; interim (1xx) answers are skipped, and so is a second answer."""
        assert self._parser is not None
        if self.begun:
            self._closed = True
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self.begun = True
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._lingering is None and not self.complete:
            self._chunks.append(body)
            self._buffered += len(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.begun:
            self.complete = True
