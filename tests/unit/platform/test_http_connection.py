"""Callers' connections: heads are bounded, silence ends, upgrades that nobody wants cost no body."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from routing_fakes import until
from starlette.types import ASGIApp, Receive, Scope, Send

from leyden_platform import one_write
from leyden_platform.http import HttpServer
from leyden_platform.http_connection import HEAD_LIMIT

BODY = b"0123456789" * 20_000
MUCH = b"x" * 6_000_000
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"


async def size_of_body(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how long the request's body is."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    told = b"%d" % size
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(told))],
        }
    )
    await send({"type": "http.response.body", "body": told})


async def much(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers more than sockets hold."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": MUCH})


@asynccontextmanager
async def server(app: ASGIApp = size_of_body, silence_s: int = 75) -> AsyncIterator[HttpServer]:
    running = HttpServer("test", app, "127.0.0.1", 0, drain_timeout_s=1)
    running._server.config.timeout_keep_alive = silence_s
    running.bind()
    stop = asyncio.Event()
    serving = asyncio.create_task(running.run(stop))
    try:
        await until(lambda: running.not_ready() is None, timeout_s=10)
        yield running
    finally:
        stop.set()
        await serving


async def nobody_is_connected(running: HttpServer) -> None:
    await until(lambda: not running._server.server_state.connections, timeout_s=10)


async def sent(to: HttpServer, *pieces: bytes, enough: Callable[[bytes], bool] = lambda _: False) -> bytes:
    """What comes back for these writes, until the server closes or it is enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
    answer = b""
    try:
        async with asyncio.timeout(10):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            while not enough(answer) and (data := await reader.read(65_536)):
                answer += data
    except ConnectionError:
        pass  # what was not read before the server closed
    finally:
        writer.close()
    return answer


def head(framing: bytes, extra: bytes = H2C) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: x\r\n%b%b\r\n\r\n" % (extra, framing)


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "pieces",
    [
        (head(b"content-length: %d" % len(BODY)) + BODY,),
        (head(b"content-length: %d" % len(BODY)), BODY[:1000], BODY[1000:]),
        (head(b"content-length: %d" % len(BODY)) + BODY[:7], BODY[7:]),
        (head(b"transfer-encoding: chunked") + CHUNKED,),
        (head(b"transfer-encoding: chunked"), CHUNKED[:50], CHUNKED[50:]),
    ],
)
async def test_the_body_of_a_request_that_offers_an_upgrade_is_read(pieces: tuple[bytes, ...]) -> None:
    async with server() as running:
        answer = await sent(running, *pieces)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n%d" % len(BODY))


async def test_an_upgrade_without_a_body() -> None:
    async with server() as running:
        answer = await sent(running, b"GET / HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n")
        assert answer.endswith(b"\r\n\r\n0")


async def test_requests_one_after_another_on_one_connection() -> None:
    request = head(b"content-length: 3", b"") + b"abc"
    async with server() as running:
        answer = await sent(running, request + request, request, enough=lambda told: told.count(b"\n3") == 3)
        assert answer.count(b"HTTP/1.1 200") == 3


async def test_a_head_without_an_end_is_refused() -> None:
    line = b"x-filler: " + b"a" * 1000 + b"\r\n"
    async with server() as running:
        answer = await sent(running, b"POST / HTTP/1.1\r\n", *[line * 16] * (HEAD_LIMIT // 16_000 + 1))
        assert answer.startswith(b"HTTP/1.1 431") or not answer, "a reset may overtake the answer"
        await nobody_is_connected(running)


@pytest.mark.parametrize("said", [(), (b"POST / HTTP/1.1\r\nhost: x\r\n",)], ids=["nothing", "half a head"])
async def test_a_connection_that_falls_silent_before_its_request_ends(said: tuple[bytes, ...]) -> None:
    async with server(silence_s=1) as running:
        assert await sent(running, *said) == b""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_write, "PATIENCE_S", 0.2)


def deaf(to: HttpServer) -> socket.socket:
    """A caller that has asked, and reads nothing by itself."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", to.port))
    caller.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    return caller


@pytest.mark.usefixtures("impatient")
async def test_a_caller_that_never_reads_is_hung_up_on() -> None:
    async with server(much) as running:
        with deaf(running):
            await until(lambda: bool(running._server.server_state.connections), timeout_s=10)
            await nobody_is_connected(running)


@pytest.mark.usefixtures("impatient")
async def test_a_caller_that_reads_slowly_gets_everything() -> None:
    async with server(much) as running:
        with deaf(running) as caller:
            caller.setblocking(False)
            loop, answer, read = asyncio.get_running_loop(), 0, b"x"
            async with asyncio.timeout(30):
                while read:
                    read = await loop.sock_recv(caller, 1_000_000)
                    answer += len(read)
                    await asyncio.sleep(0.001)
            assert answer > len(MUCH)
