"""The connections to one server: kept open between calls, bounded in number, dropped when idle too long."""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from leyden_gateway.upstream.connection import Connection


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections go: one host and port, over TLS or not."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, base_url: str) -> Self:
        """The origin of a base URL. Raises ``ValueError`` when it names no host or a bad port."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is not a base URL, for example http://inference:8001")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls)

    @property
    def netloc(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class CouldNotConnect(Exception):
    """No connection was opened; ``reason`` is ``connection`` or ``connect_timeout``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Pool:
    """At most ``limit`` connections to ``origin``; who finds none free waits for one, in turn."""

    def __init__(
        self,
        origin: Origin,
        *,
        limit: int,
        connect_timeout_s: float,
        keep_alive_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._origin, self._tls = origin, tls
        self._connect_timeout_s, self._keep_alive_s = connect_timeout_s, keep_alive_s
        self._slots = asyncio.Semaphore(limit)
        self._idle: deque[tuple[float, Connection]] = deque()
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def take(self) -> Connection:
        """A connection that is free; give it back with ``give_back``. Raises ``CouldNotConnect``."""
        if self._slots.locked():
            await self._wait_for_slot()
        else:
            await self._slots.acquire()
        try:
            return self._kept() or await self._connect()
        except BaseException:
            self._slots.release()
            raise

    def give_back(self) -> None:
        """The exchange on a taken connection has ended, one way or another."""
        self._slots.release()

    def close(self) -> None:
        """Hang up on everything."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.abort()

    async def _wait_for_slot(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise CouldNotConnect(
                "pool_full", f"all connections to {self._origin.netloc} are busy (LEYDEN_GATEWAY_POOL_SIZE)"
            ) from None

    def _kept(self) -> Connection | None:
        oldest = self._loop.time() - self._keep_alive_s
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        origin = self._origin
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
        except TimeoutError:
            raise CouldNotConnect(
                "connect_timeout", f"{origin.netloc} did not accept a connection in time"
            ) from None
        except OSError as error:
            raise CouldNotConnect("connection", f"{origin.netloc}: {error}") from None
        if connection.usable:
            self._open.add(connection)
        return connection

    # What connections tell.

    def released(self, connection: Connection) -> None:
        """The connection may be used again."""
        self._idle.append((self._loop.time(), connection))
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keep_alive_s, self._drop_idle)

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.discard(connection)

    def _drop_idle(self) -> None:
        oldest = self._loop.time() - self._keep_alive_s
        while self._idle and (self._idle[0][0] <= oldest or not self._idle[0][1].usable):
            self._idle.popleft()[1].abort()
        again = self._idle[0][0] - oldest if self._idle else None
        self._sweep = self._loop.call_later(again, self._drop_idle) if again is not None else None
