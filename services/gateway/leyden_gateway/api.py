"""The gateway's routes: who may call, then either a completion or the list of models."""

from time import perf_counter
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from leyden_gateway import metrics
from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.attribution.paths import parse_path
from leyden_gateway.control.budget import CompletionBudget
from leyden_gateway.errors import ApiError, MethodNotAllowed, NoSuchRoute, Overloaded
from leyden_gateway.exchange.caller import Caller, CallerGone
from leyden_gateway.exchange.exchange import Exchange, Tools
from leyden_gateway.recording.record import Call, Ending
from leyden_gateway.routing.catalogue import Catalogue
from leyden_platform.clock import Clock
from leyden_platform.telemetry import span
from leyden_schemas import Protocol, new_id

PREFIXES = (
    "",
    "/rollouts/{rollout_id:uuid}/attempts/{attempt:int}",
    "/rollouts/{rollout_id:uuid}/attempts/{attempt:int}/agents/{agent}",
)


class ChatCompletions:
    """``POST …/v1/chat/completions``, as an ASGI application of its own: it must see the caller hang up."""

    def __init__(self, tools: Tools, gatekeeper: Gatekeeper, clock: Clock) -> None:
        self._tools, self._gatekeeper, self._clock = tools, gatekeeper, clock
        self._settings = tools.settings
        self._budget = CompletionBudget(tools.settings.budget_entries)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call; every failure is an OpenAI error object."""
        started = perf_counter()
        caller = Caller(scope, receive, send, stall_timeout_s=self._settings.caller_stall_timeout_s)
        self._in_flight += 1
        metrics.IN_FLIGHT.inc()
        try:
            call = self._admit(scope, caller, started)
            await self._serve(caller, call)
        except ApiError as error:
            metrics.REFUSED.labels(error.reason).inc()
            metrics.REQUESTS.labels(Protocol.CHAT, "false", error.status).inc()
            await caller.refuse(error)
        except CallerGone:
            metrics.REFUSED.labels("caller_gone").inc()
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.dec()

    def _admit(self, scope: Scope, caller: Caller, started: float) -> Call:
        if self._in_flight > self._settings.max_in_flight:
            raise Overloaded(f"{self._settings.max_in_flight} calls are in flight; try again shortly")
        attribution = self._gatekeeper.attribute(parse_path(scope["path"])[0], dict(scope["headers"]))
        if attribution.claims:
            self._budget.take(
                (attribution.rollout_id, attribution.attempt), attribution.claims.max_completions
            )
        return Call(new_id(), attribution, self._clock.now(), started)

    async def _serve(self, caller: Caller, call: Call) -> None:
        body = await self._body(caller)
        exchange = Exchange(self._tools, caller, call)
        with span(f"chat {call.policy_ref}".rstrip(), _trace_context(caller, call)) as current:
            ending = await exchange.run(body)
            if current.is_recording():
                current.set_attributes(span_attributes(exchange, ending))
        if ending.http_status >= 500 and call.attribution.claims:
            self._budget.give_back((call.attribution.rollout_id, call.attribution.attempt))
        streamed = "true" if call.streamed else "false"
        metrics.REQUESTS.labels(call.protocol, streamed, ending.http_status).inc()
        metrics.REQUEST_SECONDS.labels(streamed).observe(perf_counter() - call.started)

    async def _body(self, caller: Caller) -> bytes | ApiError:
        settings = self._settings
        try:
            return await caller.body(limit=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
        except ApiError as error:
            return error


def _trace_context(caller: Caller, call: Call) -> dict[str, str]:
    """The caller's trace, else that of the rollout it belongs to."""
    claims = call.attribution.claims
    parent = caller.header("traceparent") or (claims.traceparent if claims else None)
    return {"traceparent": parent} if parent else {}


def span_attributes(exchange: Exchange, ending: Ending) -> dict[str, str | int]:
    """OpenTelemetry's GenAI semantic conventions, and our ids."""
    call, capture = exchange.call, exchange.capture
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "leyden",
        "gen_ai.request.model": call.policy_ref,
        "gen_ai.usage.input_tokens": len(capture.prompt_token_ids),
        "gen_ai.usage.output_tokens": sum(len(choice.token_ids) for choice in capture.choices.values()),
        "http.response.status_code": ending.http_status,
        "leyden.rollout_id": str(call.attribution.rollout_id),
        "leyden.attempt": call.attribution.attempt,
        "leyden.completion_id": str(call.completion_id),
    }
    if call.choice:
        attributes["gen_ai.response.model"] = call.choice.model
        attributes["server.address"] = call.choice.replica
    if ending.reason:
        attributes["error.type"] = ending.reason
    return attributes


def create_app(tools: Tools, gatekeeper: Gatekeeper, catalogue: Catalogue, clock: Clock) -> Starlette:
    """The ASGI application with every route under every prefix."""

    async def list_models(request: Request) -> Response:
        whose = gatekeeper.attribute(parse_path(request.url.path)[0], dict(request.scope["headers"]))
        return _json(200, {"object": "list", "data": catalogue.models(whose)})

    chat = ChatCompletions(tools, gatekeeper, clock)
    routes: list[BaseRoute] = []
    for prefix in PREFIXES:
        routes.append(Route(f"{prefix}/v1/chat/completions", chat, methods=["POST"]))
        routes.append(Route(f"{prefix}/v1/models", list_models, methods=["GET"]))
    handlers = {ApiError: _refuse, HTTPException: _http_error, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    metrics.REFUSED.labels(error.reason).inc()
    return _json(error.status, error.body(), error.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    where = f"{request.method} {request.url.path}"
    if isinstance(error, HTTPException) and error.status_code == 405:
        return await _refuse(request, MethodNotAllowed(f"{where}: this path takes another method"))
    known = "/v1/chat/completions, /v1/models, and both behind /rollouts/{id}/attempts/{n}[/agents/{name}]"
    return await _refuse(request, NoSuchRoute(f"{where}: not served here; the gateway serves {known}"))


async def _internal_error(request: Request, _error: Exception) -> Response:
    """A bug: the caller gets an error object, the log its traceback (uvicorn logs what is raised)."""
    return await _refuse(request, ApiError("the gateway failed to answer; its log has the reason"))


def _json(status: int, payload: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(payload), status, headers, "application/json")
