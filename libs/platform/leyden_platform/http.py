"""An ASGI app as a component: bound before it runs, drained when it stops."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from leyden_platform.http_connection import HttpConnection

LAST_WORDS_S = 2.0
"""How long a request that was cut short may take to tell its caller, and whoever else has to know."""


class PortInUse(OSError):
    """Another process listens on the port."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers; the service's lifecycle owns those."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves ``app`` on ``host:port``; port 0 takes a free one, known after ``bind``."""

    def __init__(
        self,
        name: str,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        drain_timeout_s: float = 10.0,
        share_port: bool = False,
    ) -> None:
        """With ``share_port`` other processes may listen there too; the kernel spreads connections."""
        self.name = name
        self._host, self._port, self._share_port = host, port, share_port
        self._socket: socket.socket | None = None
        config = uvicorn.Config(
            app,
            http=HttpConnection,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(drain_timeout_s),
            timeout_keep_alive=75,
            backlog=4096,
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """The bound port, or the one asked for."""
        return self._socket.getsockname()[1] if self._socket else self._port

    def bind(self) -> None:
        """Take the port. Raises ``PortInUse`` naming it."""
        if self._socket:
            return
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._share_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind((self._host, self._port))
        except OSError as error:
            sock.close()
            raise PortInUse(
                f"{self.name}: cannot listen on {self._host}:{self._port}: {error.strerror}"
            ) from error
        self._socket = sock

    def not_ready(self) -> str | None:
        """Ready once accepting connections."""
        return None if self._server.started else "not listening yet"

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``; then stop accepting and finish the requests in hand.

        Those that do not end in time are cancelled, and have a moment to say so.
        """
        self.bind()
        assert self._socket is not None
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._server.should_exit = True
        await serving
        if cut_short := set(self._server.server_state.tasks):
            await asyncio.wait(cut_short, timeout=LAST_WORDS_S)
