"""The operator's routes, on a port of their own that agents need not reach.

They show and steer this process only; nothing that is set here outlives it.
"""

from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from leyden_gateway.attribution.credentials import bearer
from leyden_gateway.attribution.named import agent_or_none
from leyden_gateway.control.settings import EVERY_OTHER, ControlSettings, TenantLimits
from leyden_gateway.control.views import Controls
from leyden_gateway.errors import ApiError, BodyTooLarge, InvalidRequest, MethodNotAllowed, NoSuchRoute
from leyden_gateway.exchange.fields import encode
from leyden_platform.http import HttpServer
from leyden_schemas import JsonObject

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 64 * 1024
M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class NotAdmin(ApiError):
    """The admin token is missing or wrong."""

    status, type, reason = 401, "authentication_error", "invalid_admin_token"


class ReplicaNotFound(ApiError):
    """No replica has this base URL."""

    status, type, reason = 404, "invalid_request_error", "replica_not_found"


class _Target(BaseModel):
    model_config = ConfigDict(extra="forbid")

    replica: str


class Admin:
    """The handlers."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    async def replicas(self, _request: Request) -> Response:
        """Every replica as the router sees it."""
        return _json({"replicas": self._controls.replicas.describe()})

    async def drain(self, request: Request) -> Response:
        """Send no new calls to a replica."""
        return await self._steer(request, self._controls.replicas.drain)

    async def undrain(self, request: Request) -> Response:
        """Send calls to a replica again."""
        return await self._steer(request, self._controls.replicas.undrain)

    async def _steer(self, request: Request, steer: Callable[[str], None]) -> Response:
        target = _read(_Target, await _body(request))
        try:
            steer(target.replica.rstrip("/"))
        except LookupError as error:
            raise ReplicaNotFound(str(error.args[0] if error.args else target.replica)) from None
        return await self.replicas(request)

    async def policies(self, _request: Request) -> Response:
        """Versions, aliases and traffic shares."""
        return _json({"policies": self._controls.policies.describe()})

    async def calls(self, _request: Request) -> Response:
        """The calls in flight."""
        return _json(self._controls.calls.describe())

    async def spool(self, _request: Request) -> Response:
        """Records that wait for Kafka."""
        return _json(self._controls.spool.describe())

    async def tenant(self, request: Request) -> Response:
        """A tenant's limits and what it has left."""
        return _json(self._tenant(_tenant(request)))

    async def limit_tenant(self, request: Request) -> Response:
        """Put new limits on a tenant, or on each that has none of its own (``*``)."""
        tenant = _tenant(request)
        limits = _read(TenantLimits, await _body(request))
        self._controls.limiter.set_limits(tenant, limits)
        log.info("tenant_limited", tenant=tenant, **limits.model_dump(exclude_none=True))
        return _json(self._tenant(tenant))

    def _tenant(self, tenant: str) -> JsonObject:
        limiter = self._controls.limiter
        limits = limiter.limits(tenant)
        shown = limits.model_dump(exclude_none=True) if limits else {}
        return {"tenant": tenant, "limits": shown, "left": limiter.left(tenant)}

    async def paused(self, _request: Request) -> Response:
        """Whether new calls are held, and how many wait."""
        pause = self._controls.pause
        return _json({"paused": pause.paused, "waiting": pause.waiting})

    async def pause(self, request: Request) -> Response:
        """Hold new calls; each waits for the parking time at most."""
        self._controls.pause.pause()
        log.warning("gateway_paused")
        return await self.paused(request)

    async def resume(self, request: Request) -> Response:
        """Let them go on."""
        self._controls.pause.resume()
        log.info("gateway_resumed", waiting=self._controls.pause.waiting)
        return await self.paused(request)


def create_admin(controls: Controls, token: SecretStr) -> Starlette:
    """The ASGI application; every route asks for the token."""
    admin, expected = Admin(controls), token.get_secret_value().encode()
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/replicas", admin.replicas),
        ("POST", "/replicas/drain", admin.drain),
        ("POST", "/replicas/undrain", admin.undrain),
        ("GET", "/policies", admin.policies),
        ("GET", "/calls", admin.calls),
        ("GET", "/spool", admin.spool),
        ("GET", "/tenants/{tenant}/limits", admin.tenant),
        ("PUT", "/tenants/{tenant}/limits", admin.limit_tenant),
        ("GET", "/pause", admin.paused),
        ("POST", "/pause", admin.pause),
        ("POST", "/resume", admin.resume),
    ]
    routes = [
        Route(f"/admin/v1{path}", _guarded(handler, expected), methods=[method])
        for method, path, handler in table
    ]
    handlers = {ApiError: _refuse, HTTPException: _http_error, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers)


def admin_server(
    settings: ControlSettings, controls: Controls, *, drain_timeout_s: float
) -> HttpServer | None:
    """The admin port as a component, bound; None, and a line in the log, when no token is configured."""
    if settings.admin_token is None:
        log.info("admin_disabled", remedy="set LEYDEN_GATEWAY_ADMIN_TOKEN to serve the admin routes")
        return None
    app = create_admin(controls, settings.admin_token)
    server = HttpServer(
        "admin", app, settings.admin_host, settings.admin_port, drain_timeout_s=drain_timeout_s
    )
    server.bind()
    log.info("admin_bound", host=settings.admin_host, port=server.port)
    return server


def _guarded(handler: Handler, expected: bytes) -> Handler:
    async def guarded(request: Request) -> Response:
        presented = bearer(request.headers.get("authorization", "").encode("latin-1")) or b""
        if not compare_digest(presented, expected):
            raise NotAdmin("send the admin token as 'Authorization: Bearer <LEYDEN_GATEWAY_ADMIN_TOKEN>'")
        return await handler(request)

    return guarded


def _tenant(request: Request) -> str:
    tenant: str = request.path_params["tenant"]
    if tenant != EVERY_OTHER and agent_or_none(tenant) is None:
        raise InvalidRequest(f"{tenant[:80]!r} is not the name of a tenant")
    return tenant


async def _body(request: Request) -> bytes:
    parts = bytearray()
    async for chunk in request.stream():
        parts += chunk
        if len(parts) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the request is larger than {MAX_BODY_BYTES} bytes")
    return bytes(parts)


def _read(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems)
        raise InvalidRequest(told) from None


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), error.status, error.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    where = f"{request.method} {request.url.path[:200]}"
    if isinstance(error, HTTPException) and error.status_code == 405:
        return await _refuse(request, MethodNotAllowed(where, _allowed(request)))
    return await _refuse(request, NoSuchRoute(f"{where}: no such admin route"))


def _allowed(request: Request) -> list[str]:
    """The methods of a path, each of which is a route."""
    here = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in here for method in route.methods or ()})


async def _internal_error(request: Request, _error: Exception) -> Response:
    return await _refuse(request, ApiError("the gateway failed to answer; its log has the reason"))


def _json(payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(payload), status, headers, "application/json")
