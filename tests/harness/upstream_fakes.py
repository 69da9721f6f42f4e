"""Servers that say what a test has written down, and the gateway's client towards them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from pydantic import SecretStr

from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Upstream
from leyden_gateway.upstream.connection import Connection
from leyden_platform.tokens import TokenSettings

SECRET = SecretStr("a secret of at least thirty-two characters")
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Owner:
    """Remembers what a connection tells."""

    def __init__(self) -> None:
        self.kept: list[Connection] = []
        self.gone: list[Connection] = []

    def released(self, connection: Connection) -> None:
        self.kept.append(connection)

    def lost(self, connection: Connection) -> None:
        self.gone.append(connection)


class Wire(asyncio.Transport):
    """A transport without a network: keeps what is written; what arrives is handed to the protocol."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.sent, self.reading, self.aborted = b"", True, False
        self._protocol = protocol
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


def wired() -> tuple[Connection, Wire, Owner]:
    """A connection, its other end and its owner."""
    owner = Owner()
    connection = Connection(owner)
    return connection, Wire(connection), owner


class Peer:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """The next request: its first line, headers and body. Raises ``IncompleteReadError`` at the end."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return first, headers, await self._reader.readexactly(int(headers["content-length"]))

    async def say(self, *pieces: bytes) -> None:
        """Send pieces, each as soon as there is room for it."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()

    async def closed(self) -> None:
        """Return when the other side has hung up."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def reset(self) -> None:
        """Hang up without a good-bye."""
        self._writer.transport.abort()


Handler = Callable[[Peer], Awaitable[None]]


class Server:
    """A server on a free port; every connection is ``handle``d anew."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.url = ""
        self.accepted = 0
        self.open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.accepted += 1
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self.open.add(task)
        try:
            await self.handle(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(task)
            writer.close()


@asynccontextmanager
async def serving(
    handle: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """Run a server; connections that are left open at the end are a failure of the test."""
    server = Server(handle)
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    server.url = f"{'https' if tls else 'http'}://{name}:{port}"
    try:
        yield server
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.wait(server.open)
    finally:
        for task in server.open:
            task.cancel()
        listener.close()


@asynccontextmanager
async def upstream(*replicas: str, **settings: Any) -> AsyncIterator[Upstream]:
    """The gateway's client. At the end every exchange is over and every place in the pools is free."""
    chosen = GatewaySettings(
        token=TokenSettings(secret=SECRET), replicas=replicas or ("http://127.0.0.1:9",), **settings
    )
    client = Upstream(chosen)
    async with client:
        pools = client._pools
        try:
            yield client
            for pool in pools.values():
                assert pool._slots._value == chosen.pool_size, "a place was not given back"
                assert all(connection.usable for connection in pool._open), "an exchange was not ended"
                assert set(pool._open) == {connection for _, connection in pool._idle if connection.usable}
        finally:
            left = [connection for pool in pools.values() for connection in pool._open]
    async with asyncio.timeout(5):
        while any(connection.usable for connection in left):  # noqa: ASYNC110 - the loop tells no one
            await asyncio.sleep(0)


def forever(answer: bytes = HELLO) -> Handler:
    """Answers every request of a connection with the same bytes."""

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(answer)

    return handle


def once(*answer: bytes, hold: bool = False) -> Handler:
    """Answers the first request in these pieces; then hangs up, or (``hold``) waits for the other to."""

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.say(*answer)
        if hold:
            await peer.closed()

    return handle
