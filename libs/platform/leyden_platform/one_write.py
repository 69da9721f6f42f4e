"""An answer's head and the first bytes of its body in one write, where uvicorn makes two.

Each write is a system call and wakes the reader: on a small answer the second costs as much as parsing
the request. A head that nothing follows at once is written in the loop's next turn.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from array import array
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "

_FORGET_UNSENT = struct.pack("ii", 1, 0)
PATIENCE_S = 30.0
"""How long a caller may take nothing of what is still to be sent on a connection that ends."""


class OneWrite:
    """A transport that keeps an answer's head for what is written next."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, or keep until the next call what begins as a head does."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close when everything is written, or when the caller takes no more of it."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(PATIENCE_S, self._look, self._unsent())

    def _look(self, before: int) -> None:
        if self._transport.get_write_buffer_size():
            if (left := self._unsent()) == before:
                self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET_UNSENT)
                self._transport.abort()
            else:
                self._loop.call_later(PATIENCE_S, self._look, left)

    def _unsent(self) -> int:
        """Bytes that wait here and in the kernel, which takes more only when much of its own has gone."""
        queued = array("i", [0])
        fcntl.ioctl(self._socket().fileno(), termios.TIOCOUTQ, queued)
        return self._transport.get_write_buffer_size() + queued[0]

    def _socket(self) -> socket.socket:
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol on such a transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        wrapped = OneWrite(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", wrapped))
