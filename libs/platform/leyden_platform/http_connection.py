"""One connection of a caller, where uvicorn's own protocol leaves something open.

Heads are bounded, connections that say nothing end, and an upgrade that is not wanted is passed over, as
RFC 9110 (7.8) has it: Java's client offers HTTP/2 with every first request, body and all.
"""

import asyncio

import httptools

from leyden_platform.one_write import OneWriteProtocol

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's line and headers, apart from what came with them in one read."""

_FRAMING = (b"content-length", b"transfer-encoding")
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 38\r\nconnection: close\r\n\r\nThe request's headers are too large.\r\n"
)


class HttpConnection(OneWriteProtocol):
    """uvicorn's HTTP protocol with these gaps closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._head_size = 0
        self._expect_more()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if self.cycle is None or self.cycle.scope is not self.scope:
            self._await_head(len(data))
        else:
            self._head_size = 0

    def _await_head(self, received: int) -> None:
        """The head of a request has not come to its end."""
        self._head_size += received
        if self._head_size > HEAD_LIMIT:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            self._expect_more()

    def _expect_more(self) -> None:
        """Close unless something arrives in time."""
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """The parser took the head for all of the request: what follows it is read as its body.

        This is the connection's last request, because it is that of the parser.
        """
        cycle = self.cycle
        cycle.keep_alive = False
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in _FRAMING]
        if framing:
            cycle.more_body = True
            self.parser = httptools.HttpRequestParser(_Body(self))
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            if rest:
                self.data_received(rest)


class _Body:
    """What a parser tells of a request whose head has been dealt with."""

    def __init__(self, connection: HttpConnection) -> None:
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete
