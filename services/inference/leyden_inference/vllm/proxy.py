"""The HTTP interface in front of the servers: names become servers, answers pass through as they are."""

import hashlib
import json
import time
from functools import partial
from typing import Any

import aiohttp
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from leyden_inference import metrics as service_metrics
from leyden_inference.answering import answered, not_found
from leyden_inference.bodies import read_body, unless_disconnected
from leyden_inference.errors import EngineStopped, RequestRefused
from leyden_inference.vllm import metrics
from leyden_inference.vllm.engine import Lease
from leyden_inference.vllm.fleet import Fleet
from leyden_inference.vllm.renaming import Renamer
from leyden_inference.vllm.turns import TURN_PATH
from leyden_platform.telemetry import trace_headers

log = structlog.get_logger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_FORWARDED = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
_SALTED = {"chat", "completions", "responses"}
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Proxy:
    """The routes over a fleet."""

    def __init__(
        self, fleet: Fleet, session: aiohttp.ClientSession, *, max_body_bytes: int, stall_s: float
    ) -> None:
        self._fleet, self._session, self._max_body_bytes = fleet, session, max_body_bytes
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=stall_s)
        self._started = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        forwarded = [
            Route(path, answered(name, self._forward), methods=["POST"]) for path, name in _FORWARDED.items()
        ]
        return Starlette(
            routes=[
                *forwarded,
                Route("/v1/models", answered("models", self._models)),
                Route("/health", answered("health", self._health)),
                Route(TURN_PATH, self._turn),
                Route("/engines/{number:int}/metrics", self._metrics),
            ],
            exception_handlers={404: not_found, 405: not_found},
        )

    async def _forward(self, request: Request) -> Response:
        asked = _parse(await read_body(request, self._max_body_bytes))
        lease = await unless_disconnected(request.receive, self._fleet.lease(_model(asked)))
        path = request.url.path
        body = addressed(asked, lease, salted=_FORWARDED[path] in _SALTED)
        try:
            upstream = await unless_disconnected(request.receive, self._send(lease, path, body))
        except BaseException:
            lease.release()
            raise
        if upstream.content_type == "text/event-stream":
            return Relay(upstream, lease)
        try:
            return await unless_disconnected(request.receive, _whole(upstream, lease))
        finally:
            upstream.close()
            lease.release()

    async def _send(self, lease: Lease, path: str, body: bytes) -> aiohttp.ClientResponse:
        """What the server begins to answer.

        A kept connection that the server closed as the request went out did not carry it: it is sent again.
        """
        headers = {"content-type": "application/json", **trace_headers()}
        send = partial(
            self._session.post, lease.url + path, data=body, headers=headers, timeout=self._timeout
        )
        try:
            try:
                return await send()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                metrics.RESENT.inc()
                return await send()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineStopped(
                f"the server of vLLM did not answer: {error or type(error).__name__}"
            ) from error

    async def _models(self, _request: Request) -> Response:
        contexts = {name: engine.context for engine in self._fleet.engines for name in engine.names}
        data = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "leyden",
                "max_model_len": contexts[name],
                "parent": self._fleet.announced.base_of(name),
            }
            for name in sorted(contexts)
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _health(self, _request: Request) -> Response:
        reason = self._fleet.not_ready()
        return JSONResponse({"status": reason or "ok"}, status_code=503 if reason else 200)

    async def _turn(self, _request: Request) -> Response:
        return JSONResponse(self._fleet.state().as_json())

    async def _metrics(self, request: Request) -> Response:
        """A server's own metrics, which no port but this one may show."""
        number = request.path_params["number"]
        if number >= len(self._fleet.engines):
            return await not_found(request, Exception())
        url = self._fleet.engines[number].client.url
        try:
            async with self._session.get(f"{url}/metrics", timeout=self._timeout) as response:
                return Response(await response.read(), response.status, media_type=response.content_type)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Response(f"server {number} does not answer: {error}\n", 503)


class Relay(Response):
    """Server-sent events of a server, passed on as they come, abandoned when the client goes away."""

    def __init__(self, upstream: aiohttp.ClientResponse, lease: Lease) -> None:
        super().__init__(
            status_code=upstream.status, media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
        self._upstream, self._lease = upstream, lease

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every piece."""
        try:
            await unless_disconnected(receive, self._relay(send))
        except ClientDisconnect:
            service_metrics.DISCONNECTED.inc()
        finally:
            self._upstream.close()
            self._lease.release()

    async def _relay(self, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        renamer = Renamer(self._lease.vllm_name, self._lease.name)
        try:
            async for piece in self._upstream.content.iter_any():
                if self._lease.spoiled:
                    raise _spoiled()
                if ready := renamer.feed(piece):
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
            last = renamer.flush()
        except (aiohttp.ClientError, TimeoutError) as error:
            last = _last_event(
                EngineStopped(f"the server of vLLM broke off: {error or type(error).__name__}")
            )
        except RequestRefused as refusal:
            last = _last_event(refusal)
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _whole(upstream: aiohttp.ClientResponse, lease: Lease) -> Response:
    try:
        body = await upstream.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineStopped(f"the server of vLLM broke off: {error or type(error).__name__}") from error
    if lease.spoiled:
        raise _spoiled()
    renamer = Renamer(lease.vllm_name, lease.name)
    return Response(renamer.feed(body) + renamer.flush(), upstream.status, media_type=upstream.content_type)


def _spoiled() -> EngineStopped:
    metrics.SPOILED.inc()
    return EngineStopped("weights that were not the published ones may have computed this answer; ask again")


def _last_event(refusal: RequestRefused) -> bytes:
    return f"\n\ndata: {json.dumps(refusal.body())}\n\ndata: [DONE]\n\n".encode()


def _parse(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(f"the body is not a JSON object: {error}") from None


def _model(asked: dict[str, msgspec.Raw]) -> str:
    try:
        return msgspec.json.decode(asked["model"], type=str)
    except KeyError:
        raise RequestRefused("model: Field required", param="model") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RequestRefused(f"model: {error}", param="model") from None


def addressed(asked: dict[str, msgspec.Raw], lease: Lease, *, salted: bool) -> bytes:
    """The body for the server: its own name of the model, and prefixes shared within the version only."""
    fields: dict[str, Any] = {**asked, "model": lease.vllm_name}
    if salted:
        fields["cache_salt"] = _salt(lease.name, asked.get("cache_salt"))
    return msgspec.json.encode(fields)


def _salt(name: str, own: msgspec.Raw | None) -> str:
    """What vLLM accepts as a salt, other for every version and every salt of the caller's."""
    return hashlib.sha256(name.encode() + b"\0" + (bytes(own) if own else b"")).hexdigest()[:32]
