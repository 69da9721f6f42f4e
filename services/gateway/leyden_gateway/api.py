"""The gateway's front: whose call, which protocol, may it come in; then an exchange or a list of models.

A plain ASGI application: it must see the caller hang up, and a framework's routing costs as much as ours.
"""

from contextlib import suppress
from time import perf_counter
from urllib.parse import unquote

import structlog
from starlette.types import Receive, Scope, Send

from leyden_gateway import metrics
from leyden_gateway.attribution.paths import parse_path
from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.control.admission import Admission
from leyden_gateway.errors import (
    ApiError,
    InvalidRolloutToken,
    MethodNotAllowed,
    MissingToken,
    NoSuchRoute,
    WrongRollout,
)
from leyden_gateway.exchange.caller import Caller, CallerGone
from leyden_gateway.exchange.dialects import CHAT, MESSAGES, ROUTES, Dialect
from leyden_gateway.exchange.exchange import Exchange, Tools
from leyden_gateway.exchange.fields import encode
from leyden_gateway.feedback.desk import ROUTE as FEEDBACK
from leyden_gateway.feedback.desk import Desk
from leyden_gateway.recording.record import Call
from leyden_gateway.recording.refusals import Refusals, nobody
from leyden_gateway.routing.catalogue import Catalogue
from leyden_gateway.tracing import trace_context, traced
from leyden_platform.clock import Clock
from leyden_platform.telemetry import exporting
from leyden_schemas import new_id

log = structlog.get_logger(__name__)

MODELS = "/v1/models"
ANTHROPIC = b"anthropic-version"
"""What all of Anthropic's clients send; where the path does not tell, errors are in their words."""
SERVED = (
    f"{', '.join([*ROUTES, MODELS, FEEDBACK])}, and all of them behind /rollouts/{{id}}/attempts/{{n}} or "
    "/sessions/{id}, either followed by /agents/{name}"
)
JSON = {"content-type": "application/json"}
READS, WRITES = ("GET", "HEAD"), ("POST",)


class Front:
    """Every route, under every prefix that names a rollout, a session or an agent."""

    def __init__(
        self,
        tools: Tools,
        admission: Admission,
        refusals: Refusals,
        catalogue: Catalogue,
        desk: Desk,
        clock: Clock,
    ) -> None:
        self._tools, self._admission, self._refusals = tools, admission, refusals
        self._catalogue, self._desk, self._clock = catalogue, desk, clock
        self._settings = tools.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is an error object of the protocol that was spoken."""
        started = perf_counter()
        caller = Caller(scope, receive, send, stall_timeout_s=self._settings.caller_stall_timeout_s)
        path = scope["raw_path"].decode("latin-1")
        dialect = ROUTES.get(path[path.rfind("/v1/") :], MESSAGES if ANTHROPIC in caller.headers else CHAT)
        try:
            await self._answer(scope["method"], path, caller, started)
        except ApiError as error:
            await _refuse(caller, dialect, error)
        except CallerGone:
            metrics.REFUSED.labels("caller_gone").inc()
        except Exception as error:
            log.error("call_failed", path=path, error=repr(error), exc_info=error)
            if caller.started:
                raise
            await _refuse(caller, dialect, ApiError("the gateway failed to answer; its log has the reason"))
        finally:
            metrics.count_bytes("request", caller.taken, caller.served)
            metrics.count_bytes("answer", caller.given, caller.served)

    async def _answer(self, method: str, path: str, caller: Caller, started: float) -> None:
        named, route = parse_path(path)
        dialect = ROUTES.get(route)
        if route == FEEDBACK and method == "POST":
            answer = await self._desk.take(named, caller, within_s=self._settings.body_timeout_s)
            await caller.reply(200, JSON, encode(answer))
            return
        models = route == MODELS or route.startswith(f"{MODELS}/")
        if dialect is None and not models and route != FEEDBACK:
            raise NoSuchRoute(f"{method} {path[:200]}: not served here; the gateway serves {SERVED}")
        if method not in (allowed := READS if models else WRITES):
            raise MethodNotAllowed(f"{method} {path[:200]}", allowed)
        try:
            whose = self._tools.gatekeeper.attribute(named, caller.headers)
        except (MissingToken, InvalidRolloutToken, WrongRollout) as error:
            if dialect is not None:
                await self._record_refusal(self._call(dialect, nobody(), caller, started), error)
            raise
        if dialect is None:
            name = unquote(route.removeprefix(MODELS)[1:])
            told = self._catalogue.one(whose, name) if name else self._catalogue.listing(whose)
            await caller.reply(200, JSON, encode(told))
        else:
            await self._complete(dialect, self._call(dialect, whose, caller, started), caller)

    def _call(self, dialect: Dialect, whose: Attribution, caller: Caller, started: float) -> Call:
        call = Call(
            new_id(),
            whose,
            self._clock.now(),
            started,
            dialect.protocol,
            dialect.operation,
            dialect.conversation,
            client=(caller.header(b"user-agent") or "")[:200],
        )
        call.trace = trace_context(caller, whose)
        return call

    async def _record_refusal(self, call: Call, error: ApiError) -> None:
        """The caller hears of its key, whether or not that could be recorded."""
        if not self._refusals.take():
            return
        with suppress(ApiError):
            await self._refusals.record(call, error)
            error.completion_id = call.completion_id

    async def _complete(self, dialect: Dialect, call: Call, caller: Caller) -> None:
        self._admission.admit(call)
        exchange, status = Exchange(self._tools, dialect, caller, call, self._admission.charge), 499
        try:
            ending = await (traced(exchange) if exporting() else exchange.run())
            status = ending.http_status
        finally:
            self._admission.settle(call, tokens=exchange.capture.tokens, failed=status not in (200, 499))
            if call.choice is not None:
                caller.served = call.choice.served
        self._desk.answered(call)
        metrics.answered(call.protocol, streamed=call.streamed, status=status)
        metrics.request_seconds(call.streamed).observe(perf_counter() - call.started)


async def _refuse(caller: Caller, dialect: Dialect, error: ApiError) -> None:
    metrics.REFUSED.labels(error.reason).inc()
    metrics.answered(dialect.protocol, streamed=False, status=error.status)
    known = {dialect.request_id: str(error.completion_id)} if error.completion_id else {}
    await caller.reply(error.status, {**JSON, **known, **error.headers()}, dialect.error(error))
