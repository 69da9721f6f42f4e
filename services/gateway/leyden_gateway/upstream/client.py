"""The HTTP client towards the replicas: pooled connections, deadlines, and aiohttp's errors as ours."""

import asyncio
from functools import lru_cache
from typing import Self

import aiohttp
from pydantic_core import from_json
from yarl import URL

from leyden_gateway.errors import MalformedAnswer, TruncatedStream, UpstreamTimedOut
from leyden_gateway.settings import GatewaySettings

LINGER_S = 0.25
"""How long a finished stream may take to close its HTTP message, for the connection to be used again."""
KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before vLLM's server drops them (after 5 s by default)."""

_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class ReplicaUnavailable(Exception):
    """The replica did not begin an answer, so nothing was sampled that anybody saw: safe to send again."""

    def __init__(self, reason: str, text: str, refusal: "UpstreamRefused | None" = None) -> None:
        super().__init__(text)
        self.reason, self.refusal = reason, refusal


class UpstreamRefused(Exception):
    """The replica answered with an error, to be passed on with its status and body."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(f"the replica answered {status}")
        self.status, self.body, self.headers = status, body, headers


class Answer:
    """An answer whose headers have arrived. ``close`` it, after ``finish`` if it was read to its end."""

    def __init__(self, response: aiohttp.ClientResponse, max_bytes: int) -> None:
        self._response, self._max_bytes = response, max_bytes

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return self._response.content_type == "text/event-stream"

    @property
    def content_type(self) -> str:
        """The answer's Content-Type as it came."""
        return self._response.headers.get("Content-Type", "application/json")

    async def read(self) -> bytes:
        """What has arrived, empty at the end. Raises ``TruncatedStream`` or ``UpstreamTimedOut``."""
        try:
            return await self._response.content.readany()
        except aiohttp.ServerTimeoutError:
            raise UpstreamTimedOut("the replica fell silent in the middle of its answer") from None
        except _LOST as error:
            raise TruncatedStream(f"the replica closed in the middle of its answer: {error}") from None

    async def body(self) -> bytes:
        """The whole body. Raises ``MalformedAnswer`` when it is too large, else like ``read``."""
        parts, size = [], 0
        while chunk := await self.read():
            parts.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                raise MalformedAnswer(f"the replica's answer is larger than {self._max_bytes} bytes")
        return b"".join(parts)

    async def finish(self) -> None:
        """Wait a moment for the end of the HTTP message, so that the connection can be used again."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(LINGER_S):
                await self._response.content.readany()
        except (TimeoutError, *_LOST):
            self._response.close()

    def close(self) -> None:
        """Give the connection back, or hang up on a replica that has not finished."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Upstream:
    """A component that owns the connections."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.name = "upstream"
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    def not_ready(self) -> str | None:
        """Ready once entered."""
        return None if self._session else "no HTTP client yet"

    async def run(self, stop: asyncio.Event) -> None:
        """Keep connections until ``stop``."""
        async with self:
            await stop.wait()

    async def __aenter__(self) -> Self:
        settings = self._settings
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.stall_timeout_s
        )
        key = settings.replica_api_key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.pool_size, ttl_dns_cache=30, keepalive_timeout=KEEP_ALIVE_S
            ),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else None,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def send(self, replica: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Post ``body`` and return when the answer begins with 200.

        Raises ``ReplicaUnavailable`` (nothing was sampled), ``UpstreamRefused``, ``UpstreamTimedOut`` or
        ``MalformedAnswer``.
        """
        try:
            response = await self._client(replica).post(
                _url(replica, path),
                data=body,
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
            )
        except aiohttp.ConnectionTimeoutError:
            raise ReplicaUnavailable(
                "connect_timeout", f"{replica} did not accept a connection in time"
            ) from None
        except aiohttp.ServerTimeoutError:
            raise UpstreamTimedOut("the replica did not begin to answer in time") from None
        except aiohttp.ClientConnectorError as error:
            raise ReplicaUnavailable("connection", f"{replica}: {error}") from None
        except _LOST as error:
            raise ReplicaUnavailable("disconnected", f"{replica} hung up: {error}") from None
        except aiohttp.ClientError as error:
            raise MalformedAnswer(f"the replica does not speak HTTP: {error}") from None
        answer = Answer(response, self._settings.max_answer_bytes)
        if response.status != 200:
            await self._refuse(replica, response, answer)
        return answer

    async def _refuse(self, replica: str, response: aiohttp.ClientResponse, answer: Answer) -> None:
        try:
            body = await answer.body()
        finally:
            answer.close()
        kept = ("Content-Type", "Retry-After")
        headers = {name.lower(): response.headers[name] for name in kept if name in response.headers}
        refusal = UpstreamRefused(response.status, body, headers)
        if response.status in (502, 503):
            raise ReplicaUnavailable(str(response.status), f"{replica} answered {response.status}", refusal)
        raise refusal

    async def models(self, replica: str, *, timeout_s: float) -> frozenset[str]:
        """The names of the models a replica serves. Raises ``ReplicaUnavailable``."""
        try:
            async with asyncio.timeout(timeout_s):
                async with self._client(replica).get(_url(replica, "/v1/models")) as response:
                    body = await response.read()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise ReplicaUnavailable("poll", f"{type(error).__name__}: {error}") from None
        if response.status != 200:
            raise ReplicaUnavailable("poll", f"/v1/models answered {response.status}")
        try:
            return frozenset(str(model["id"]) for model in from_json(body)["data"])
        except (ValueError, TypeError, KeyError) as error:
            raise ReplicaUnavailable("poll", f"/v1/models is not a list of models: {error!r}") from None

    def _client(self, replica: str) -> aiohttp.ClientSession:
        if self._session is None:
            raise ReplicaUnavailable("starting", f"{replica}: the gateway is starting or stopping")
        return self._session


@lru_cache(maxsize=1024)
def _url(replica: str, path: str) -> URL:
    return URL(replica + path)
