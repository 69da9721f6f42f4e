"""What the proxy does when a server closes connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from leyden_inference.errors import EngineStopped
from leyden_inference.vllm import metrics
from leyden_inference.vllm.proxy import Proxy

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers on the n-th connection if ``answers`` says so, else closes it when the request has come."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.requests = list(answers), 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        await reader.readuntil(b"{}")
        self.requests += 1
        if self.answers.pop(0):
            writer.write(ANSWER)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Any]:
    """What sends a request to it through the proxy."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    lease: Any = SimpleNamespace(url=f"http://127.0.0.1:{port}")
    async with listener, aiohttp.ClientSession() as session, asyncio.timeout(20):
        fleet: Any = None
        proxy = Proxy(fleet, session, max_body_bytes=1000, stall_s=10.0)
        yield lambda: proxy._send(lease, "/v1/chat/completions", b"{}")


async def test_a_request_that_a_closed_connection_swallowed_is_sent_once_more() -> None:
    server, before = Server(False, True), metrics.RESENT._value.get()
    async with asking(server) as ask:
        answer = await ask()
        assert (answer.status, await answer.read()) == (200, b"{}")
    assert server.requests == 2
    assert metrics.RESENT._value.get() == before + 1


async def test_a_server_that_goes_on_closing_has_stopped() -> None:
    server = Server(False, False, True)
    async with asking(server) as ask:
        with pytest.raises(EngineStopped, match="did not answer"):
            await ask()
    assert server.requests == 2
