"""Sending a call to a replica or an external server, and its answer: deadlines and failures in our terms."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self

import msgspec

from leyden_gateway.errors import MalformedAnswer, TruncatedStream, UpstreamTimedOut
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.connection import Connection, ConnectionLost, FellSilent, NotHttp
from leyden_gateway.upstream.errors import ReplicaUnavailable, UpstreamRefused
from leyden_gateway.upstream.pool import CouldNotConnect, Origin, Pool

__all__ = ["Answer", "ReplicaUnavailable", "Upstream", "UpstreamRefused"]

LINGER_S = 0.25
"""How long a finished stream may take to close its HTTP message, for the connection to be used again."""
KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before vLLM's server drops them (after 5 s by default)."""

PASSED_ON = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
"""Headers of a refusal that the caller gets: what clients decide by whether, and when, to try again."""


class _Models(msgspec.Struct):
    data: "list[_Model]"


class _Model(msgspec.Struct):
    id: str


class Answer:
    """An answer whose headers have arrived. ``close`` it exactly when it is no longer read."""

    def __init__(self, connection: Connection, pool: Pool, max_bytes: int) -> None:
        self._connection, self._pool, self._max_bytes = connection, pool, max_bytes
        self._closed = False
        self._headers = connection.headers
        self.status = connection.status
        self.content_type = self.header(b"content-type") or "application/json"
        self.streamed = self.content_type[:17].lower() == "text/event-stream"
        """Whether the answer is a stream of server-sent events."""
        self.on_close: Callable[[], None] | None = None
        """Called once, when the answer is closed."""

    async def read(self) -> bytes:
        """What has arrived, empty at the end. Raises ``TruncatedStream`` or ``UpstreamTimedOut``."""
        return await self._read(everything=False)

    async def body(self) -> bytes:
        """The whole body. Raises ``MalformedAnswer`` when it is too large, else like ``read``."""
        data = await self._read(everything=True)
        if self._connection.complete and len(data) <= self._max_bytes:
            return data
        parts = [data]
        size = len(data)
        while data and size <= self._max_bytes:
            data = await self._read(everything=True)
            parts.append(data)
            size += len(data)
        if size > self._max_bytes:
            raise MalformedAnswer(f"the replica's answer is larger than {self._max_bytes} bytes")
        return b"".join(parts)

    async def _read(self, *, everything: bool) -> bytes:
        try:
            return await self._connection.read(everything=everything)
        except FellSilent:
            raise UpstreamTimedOut("the replica fell silent in the middle of its answer") from None
        except ConnectionLost as error:
            raise TruncatedStream(f"the replica closed in the middle of its answer: {error}") from None
        except NotHttp as error:
            raise MalformedAnswer(f"the replica does not speak HTTP: {error}") from None

    def header(self, name: bytes) -> str | None:
        """A header of the answer, by its lower-case name."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), None)

    def close(self, *, finished: bool = False) -> None:
        """Keep the connection if the answer is complete, else hang up.

        ``finished`` says that nothing more matters: the server gets a moment to end its message.
        """
        if self._closed:
            return
        self._closed = True
        self._connection.end(linger_s=LINGER_S if finished else 0.0)
        self._pool.give_back()
        if self.on_close is not None:
            self.on_close()


class _Target:
    """A base URL made ready: its pool, and the head of a request to each path."""

    def __init__(self, base_url: str, pool: Pool, origin: Origin, key: str | None) -> None:
        self.pool = pool
        self._prefix = base_url.split("://", 1)[1].partition("/")[2].rstrip("/")
        self._host, self._key = origin.netloc, key
        self._heads: dict[tuple[str, str], bytes] = {}

    def request(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """The bytes of a request. Raises ``ValueError`` when a header holds a line break."""
        head = self._heads.get((method, path))
        if head is None:
            prefix = f"/{self._prefix}" if self._prefix else ""
            lines = [
                f"{method} {prefix}{path} HTTP/1.1",
                f"host: {self._host}",
                "user-agent: leyden-gateway",
                "content-type: application/json",
            ]
            head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
            self._heads[method, path] = head
        if self._key and "authorization" not in headers:
            headers = {**headers, "authorization": f"Bearer {self._key}"}
        extra = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if extra.count("\r") != len(headers) or extra.count("\n") != len(headers):
            raise ValueError("a header value holds a line break")
        return b"%bcontent-length: %d\r\n%b\r\n%b" % (head, len(body), extra.encode("latin-1"), body)


class Upstream:
    """A component that owns the connections to every server."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.name = "upstream"
        self._settings = settings
        self._targets: dict[str, _Target] | None = None
        self._pools: dict[Origin, Pool] = {}
        self._tls: ssl.SSLContext | None = None

    def not_ready(self) -> str | None:
        """Ready once entered."""
        return "no HTTP client yet" if self._targets is None else None

    async def run(self, stop: asyncio.Event) -> None:
        """Keep connections until ``stop``."""
        async with self:
            await stop.wait()

    async def __aenter__(self) -> Self:
        self._targets = {}
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._targets = None
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    async def send(self, replica: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Post ``body`` and return when the answer begins with 200.

        Raises ``ReplicaUnavailable`` (nothing was sampled), ``UpstreamRefused``, ``UpstreamTimedOut`` or
        ``MalformedAnswer``.
        """
        answer = await self._exchange(replica, "POST", path, body, headers)
        if answer.status != 200:
            await self._refuse(replica, answer)
        return answer

    async def _exchange(
        self, replica: str, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> Answer:
        target = self._target(replica)
        try:
            connection = await target.pool.take()
        except CouldNotConnect as error:
            raise ReplicaUnavailable(error.reason, f"{replica}: {error}") from None
        begun = False
        try:
            request = target.request(method, path, headers, body)
            connection.send(request, stall_timeout_s=self._settings.stall_timeout_s)
            await connection.head()
            begun = True
        except FellSilent:
            raise UpstreamTimedOut("the replica did not begin to answer in time") from None
        except ConnectionLost as error:
            raise ReplicaUnavailable("disconnected", f"{replica} hung up: {error}") from None
        except NotHttp as error:
            raise MalformedAnswer(f"the replica does not speak HTTP: {error}") from None
        finally:
            if not begun:
                connection.abort()
                target.pool.give_back()
        return Answer(connection, target.pool, self._settings.max_answer_bytes)

    async def _refuse(self, replica: str, answer: Answer) -> None:
        try:
            body = await answer.body()
        finally:
            answer.close()
        if answer.status < 400:
            raise MalformedAnswer(
                f"{replica} answered {answer.status}, neither a completion nor an error: is that its address?"
            )
        headers = {name: value for name in PASSED_ON if (value := answer.header(name.encode())) is not None}
        refusal = UpstreamRefused(answer.status, body, headers)
        if answer.status in (502, 503):
            raise ReplicaUnavailable(str(answer.status), f"{replica} answered {answer.status}", refusal)
        raise refusal

    async def models(self, replica: str, *, timeout_s: float) -> frozenset[str]:
        """The names of the models a replica serves. Raises ``ReplicaUnavailable``."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._exchange(replica, "GET", "/v1/models", b"", {})
                try:
                    body = await answer.body()
                finally:
                    answer.close()
        except (TimeoutError, UpstreamTimedOut, TruncatedStream, MalformedAnswer) as error:
            raise ReplicaUnavailable("poll", f"{type(error).__name__}: {error}") from None
        if answer.status != 200:
            raise ReplicaUnavailable("poll", f"/v1/models answered {answer.status}")
        try:
            return frozenset(model.id for model in msgspec.json.decode(body, type=_Models).data)
        except msgspec.MsgspecError as error:
            raise ReplicaUnavailable("poll", f"/v1/models is not a list of models: {error}") from None

    def _target(self, replica: str) -> _Target:
        if self._targets is None:
            raise ReplicaUnavailable("starting", f"{replica}: the gateway is starting or stopping")
        target = self._targets.get(replica)
        if target is None:
            target = self._targets[replica] = self._make(replica)
        return target

    def _make(self, replica: str) -> _Target:
        settings = self._settings
        origin = Origin.of(replica)
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context(cafile=settings.upstream_ca_file)
        if origin not in self._pools:
            self._pools[origin] = Pool(
                origin,
                limit=settings.pool_size,
                connect_timeout_s=settings.connect_timeout_s,
                keep_alive_s=KEEP_ALIVE_S,
                tls=self._tls,
            )
        key = settings.replica_api_key
        own = replica in settings.replicas and key
        return _Target(replica, self._pools[origin], origin, key.get_secret_value() if own and key else None)
