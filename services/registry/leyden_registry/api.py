"""The HTTP API: requests to operations, values to JSON, errors to statuses."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import structlog
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from leyden_platform.messaging import Unavailable
from leyden_platform.telemetry import span
from leyden_registry import metrics
from leyden_registry.errors import (
    ArtifactRefused,
    ArtifactTimedOut,
    Conflict,
    InUse,
    InvalidReference,
    InvalidWeight,
    NotFound,
    RegistryError,
    Retired,
)
from leyden_registry.registry import Registry
from leyden_registry.requests import MAX_VERSION, ChangeRequest, MoveAliasRequest, PublishRequest
from leyden_registry.values import AliasMove, Placed, Policy, Publication, VersionChange
from leyden_schemas import JsonObject
from leyden_schemas.base import Name

log = structlog.get_logger(__name__)

BODY_TIMEOUT_S = 30.0
"""Longest time for a request's body to arrive."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_PAGE: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1, le=1000)])
_BEFORE: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, le=MAX_VERSION)])
_STATUS: dict[type[RegistryError], tuple[int, str]] = {
    NotFound: (404, "not_found"),
    Conflict: (409, "conflict"),
    InUse: (409, "in_use"),
    Retired: (409, "retired"),
    InvalidReference: (422, "invalid_reference"),
    InvalidWeight: (422, "invalid_weight"),
    ArtifactRefused: (422, "artifact_refused"),
    ArtifactTimedOut: (504, "artifact_timed_out"),
}

Handler = Callable[[Request], Awaitable[Response]]
RequestT = TypeVar("RequestT", bound=BaseModel)


class _Refused(Exception):
    """A request that cannot be understood."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def registry_app(registry: Registry, *, max_body_bytes: int) -> Starlette:
    """The ASGI app over ``registry``."""
    api = _Api(registry, max_body_bytes)
    routes = [
        ("/v1/policies", "GET", api.list_policies),
        ("/v1/policies/{policy}", "GET", api.get_policy),
        ("/v1/policies/{policy}/versions", "GET", api.list_versions),
        ("/v1/policies/{policy}/versions", "POST", api.publish),
        ("/v1/policies/{policy}/versions/{version}", "GET", api.get_version),
        ("/v1/policies/{policy}/versions/{version}/retire", "POST", api.retire),
        ("/v1/policies/{policy}/versions/{version}/pins/{holder}", "PUT", api.pin),
        ("/v1/policies/{policy}/versions/{version}/pins/{holder}", "DELETE", api.unpin),
        ("/v1/policies/{policy}/changes", "GET", api.list_changes),
        ("/v1/policies/{policy}/aliases/{alias}", "PUT", api.move_alias),
        ("/v1/policies/{policy}/moves", "GET", api.list_moves),
        ("/v1/announce", "POST", api.announce),
    ]
    return Starlette(
        routes=[
            Route(path, _observed(path, method, call), methods=[method]) for path, method, call in routes
        ],
        exception_handlers={HTTPException: _unrouted},
    )


class _Api:
    def __init__(self, registry: Registry, max_body_bytes: int) -> None:
        self._registry, self._max_body_bytes = registry, max_body_bytes

    async def publish(self, request: Request) -> Response:
        policy = _name(request, "policy")
        body = await self._body(request, PublishRequest)
        publication = await self._registry.publish(policy, body)
        return JSONResponse(_publication(publication), status_code=201 if publication.created else 200)

    async def move_alias(self, request: Request) -> Response:
        policy, alias = _name(request, "policy"), _name(request, "alias")
        body = await self._body(request, MoveAliasRequest)
        return JSONResponse(_move(await self._registry.move_alias(policy, alias, body)))

    async def announce(self, _request: Request) -> Response:
        return JSONResponse({"announced": await self._registry.announce()}, status_code=202)

    async def list_policies(self, _request: Request) -> Response:
        return JSONResponse({"policies": [_policy(policy) for policy in await self._registry.policies()]})

    async def get_policy(self, request: Request) -> Response:
        return JSONResponse(_policy(await self._registry.policy(_name(request, "policy"))))

    async def list_versions(self, request: Request) -> Response:
        limit = _query(request, "limit", _PAGE)
        before = _query(request, "before", _BEFORE)
        found = await self._registry.versions(_name(request, "policy"), before, limit)
        last = found[-1].version.version if found and len(found) == limit else 0
        return JSONResponse({"versions": [_placed(placed) for placed in found], "before": last or None})

    async def get_version(self, request: Request) -> Response:
        return JSONResponse(_placed(await self._registry.version(*_numbered(request))))

    async def retire(self, request: Request) -> Response:
        policy, number = _numbered(request)
        placed = await self._registry.retire(policy, number, await self._change(request))
        return JSONResponse(_placed(placed))

    async def pin(self, request: Request) -> Response:
        (policy, number), holder = _numbered(request), _name(request, "holder")
        placed = await self._registry.pin(policy, number, holder, await self._change(request))
        return JSONResponse(_placed(placed))

    async def unpin(self, request: Request) -> Response:
        (policy, number), holder = _numbered(request), _name(request, "holder")
        placed = await self._registry.unpin(policy, number, holder, await self._change(request))
        return JSONResponse(_placed(placed))

    async def list_changes(self, request: Request) -> Response:
        limit = _query(request, "limit", _PAGE) or 100
        changes = await self._registry.changes(_name(request, "policy"), limit)
        return JSONResponse({"changes": [_change(change) for change in changes]})

    async def list_moves(self, request: Request) -> Response:
        limit = _query(request, "limit", _PAGE) or 100
        moves = await self._registry.moves(_name(request, "policy"), limit)
        return JSONResponse({"moves": [_move(move) for move in moves]})

    async def _change(self, request: Request) -> ChangeRequest:
        """What a body says about a change; it may be left out."""
        return await self._body(request, ChangeRequest, left_out=b"{}")

    async def _body(self, request: Request, kind: type[RequestT], left_out: bytes = b"") -> RequestT:
        """The request's JSON as ``kind``, read no further than the limit."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return kind.model_validate_json(await self._read(request) or left_out)
        except ValidationError as error:
            raise _invalid(error) from None
        except TimeoutError:
            raise _Refused(408, "too_slow", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
        except ClientDisconnect:
            raise _Refused(400, "disconnected", "the body was cut short") from None

    async def _read(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise _Refused(413, "too_large", f"the body is larger than {self._max_body_bytes} bytes")
        return bytes(body)


def _observed(route: str, method: str, handler: Handler) -> Handler:
    """``handler`` with its errors as JSON, counted, timed and inside a span."""

    async def observed(request: Request) -> Response:
        started = time.monotonic()
        with span(f"{method} {route}", dict(request.headers)):
            response = await _answer(handler, request)
        metrics.HTTP_REQUESTS.labels(route, method, str(response.status_code)).inc()
        metrics.HTTP_SECONDS.labels(route, method).observe(time.monotonic() - started)
        return response

    return observed


async def _answer(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except _Refused as error:
        return _error(error.status, error.kind, str(error))
    except InUse as error:
        return _error(*_STATUS[InUse], str(error), reason=error.reason)
    except RegistryError as error:
        return _error(*_STATUS[type(error)], str(error))
    except Unavailable as error:
        log.warning("database_unreachable", error=str(error))
        return _error(503, "unavailable", "the registry's database is away; try again", {"Retry-After": "1"})
    except Exception as error:  # the seam: one bad request must not look like a dead service
        log.error("request_failed", path=request.url.path, exc_info=error)
        return _error(500, "internal", "the registry failed to answer; its log says why")


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    metrics.HTTP_REQUESTS.labels("unknown", request.method, str(error.status_code)).inc()
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _error(error.status_code, kind, error.detail, dict(error.headers or {}))


def _error(
    status: int, kind: str, message: str, headers: dict[str, str] | None = None, **details: str
) -> Response:
    content = {"error": {"message": message, "type": kind, **details}}
    return JSONResponse(content, status_code=status, headers=headers)


def _invalid(error: ValidationError, subject: str = "") -> _Refused:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return _Refused(400, "invalid_json", f"the body is not JSON: {first['msg']}")
    where = ".".join(str(part) for part in first["loc"]) or subject or "body"
    return _Refused(422, "invalid_request", f"{where}: {first['msg']}")


def _name(request: Request, part: str) -> str:
    try:
        return _NAME.validate_python(request.path_params[part])
    except ValidationError as error:
        raise _invalid(error, part) from None


def _numbered(request: Request) -> tuple[str, int]:
    policy, text = _name(request, "policy"), request.path_params["version"]
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > MAX_VERSION:
        raise NotFound(f"there is no version {policy}@{text[:40]}; versions are numbers from 0")
    return policy, int(text)


def _query(request: Request, name: str, kind: TypeAdapter[int]) -> int | None:
    if (text := request.query_params.get(name)) is None:
        return None
    try:
        return kind.validate_python(text)
    except ValidationError as error:
        raise _invalid(error, name) from None


def _placed(placed: Placed) -> JsonObject:
    version = placed.version
    body: dict[str, Any] = asdict(version)
    digests = body.pop("artifact")
    return {
        **body,
        "artifact": digests.pop("uri"),
        **digests,
        "version_id": str(version.version_id),
        "published_at": version.published_at.isoformat(),
        "retired_at": version.retired_at.isoformat() if version.retired_at else None,
        "aliases": placed.aliases,
        "pins": placed.pins,
    }


def _publication(publication: Publication) -> JsonObject:
    return {**_placed(publication.placed), "held": publication.held}


def _move(move: AliasMove) -> JsonObject:
    return {**asdict(move), "moved_at": move.moved_at.isoformat()}


def _change(change: VersionChange) -> JsonObject:
    return {**asdict(change), "changed_at": change.changed_at.isoformat()}


def _policy(policy: Policy) -> JsonObject:
    return {**asdict(policy), "created_at": policy.created_at.isoformat()}
