"""One call from its body to its last byte: relay, record, release.

The order is the product's promise: the caller gets the end of its completion only after Kafka has
acknowledged the record, so whatever the agent does next lies behind it on the log.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import msgspec

from leyden_gateway import metrics
from leyden_gateway.attribution.body import user_of
from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.control.pause import Pause
from leyden_gateway.control.sizes import check_messages
from leyden_gateway.errors import (
    COMPLETION_ID,
    ROLLOUT_ID,
    ApiError,
    BodyTimedOut,
    BudgetSpent,
    GatewayStopping,
    InvalidRequest,
    MalformedAnswer,
    UpstreamFailed,
    UpstreamTimedOut,
)
from leyden_gateway.exchange.answers import read_answer, read_lifted, read_members
from leyden_gateway.exchange.caller import Caller, CallerGone
from leyden_gateway.exchange.capture import Capture, error_text
from leyden_gateway.exchange.dialects import Dialect, Translator, plain
from leyden_gateway.exchange.fields import Fields, NotJson, check_readable, encode, parse, value
from leyden_gateway.exchange.relay import StreamRelay
from leyden_gateway.exchange.sse import encode_event
from leyden_gateway.exchange.training_mode import Prepared, prepare, untouched, without_templates
from leyden_gateway.recording.record import Call, Ending, records
from leyden_gateway.recording.recorder import Recorder
from leyden_gateway.recording.retries import Retries
from leyden_gateway.routing.dispatch import Dispatcher
from leyden_gateway.routing.externals import External, Externals
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Answer, UpstreamRefused
from leyden_schemas import JsonObject, Protocol

_JSON = {"content-type": "application/json"}
_FLOWS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Asks proxies on the way, nginx among them, to pass a stream on as it comes."""
_REMAINDER_S = 2.0
"""How long usage and ``[DONE]`` may take once an answer has finished: callers wait for nothing else then."""
_SERVERS_FAULT = {"truncated_stream", "malformed_answer", "upstream_timeout", "upstream_error"}
_NAMING = ("model", "user", "conversation", "metadata")
"""Fields of a request that say whose it is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, and what of the answer the caller has not got yet."""

    ending: Ending
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every exchange works with."""

    settings: GatewaySettings
    gatekeeper: Gatekeeper
    externals: Externals
    dispatcher: Dispatcher
    recorder: Recorder
    retries: Retries
    pause: Pause


class Exchange:
    """One call. ``run`` returns how it ended, after the caller and the log have been told."""

    def __init__(
        self, tools: Tools, dialect: Dialect, caller: Caller, call: Call, charge: Callable[[Call, int], None]
    ) -> None:
        """``charge`` counts the alternatives that the call asks for, or raises ``BudgetSpent``."""
        self._tools, self._dialect, self._caller, self.call = tools, dialect, caller, call
        self._charge = charge
        self.capture = Capture()
        self._translator: Translator | None = None
        self._external: External | None = None
        self._forced = False

    async def run(self) -> Ending:
        """Answer the caller's request. Raises ``BudgetSpent``: that is neither answered nor recorded here."""
        outcome = await self._relay()
        try:
            await self._record(outcome.ending)
        except ApiError as error:
            outcome = self._failed(error)
        if outcome.ending.reason != "cancelled":
            await self._release(outcome)
        return outcome.ending

    async def _relay(self) -> Outcome:
        try:
            async with self._caller as caller:
                prepared = await self._listen(caller)
                return await self._converse(prepared)
        except BudgetSpent:
            raise
        except ApiError as error:
            return self._failed(error)
        except UpstreamRefused as refusal:
            ending = Ending.refused(refusal.status, refusal_text(refusal))
            content = self._dialect.refusal(refusal.status, refusal.body)
            headers = refusal.headers if content is refusal.body else {**refusal.headers, **_JSON}
            return Outcome(ending, refusal.status, headers, content)
        except CallerGone as gone:
            return Outcome(Ending.cancelled(str(gone)))
        except asyncio.CancelledError:
            _go_on()
            return self._failed(
                GatewayStopping("the gateway was stopped before the answer had ended; try again")
            )

    async def _listen(self, caller: Caller) -> Prepared:
        """The request, understood; from then on the caller is watched."""
        settings = self._tools.settings
        late = BodyTimedOut(f"the request did not arrive within {settings.body_timeout_s:g} s")
        caller.expect(settings.body_timeout_s, late)
        prepared = self._understand(await caller.body(limit=settings.max_body_bytes))
        self._charge(self.call, prepared.choices)
        self.call.sampling = prepared.sampling
        slow = UpstreamTimedOut(f"the completion took longer than {settings.request_timeout_s:g} s")
        caller.expect(settings.request_timeout_s, slow)
        caller.watch()
        return prepared

    def _failed(self, error: ApiError) -> Outcome:
        """The caller gets this error, in the protocol it speaks."""
        headers = {**_JSON, **error.headers()}
        return Outcome(Ending.failed(error), error.status, headers, self._dialect.error(error))

    def _understand(self, body: bytes) -> Prepared:
        """What the replica will be asked; fills in what the request says about the call."""
        call, dialect = self.call, self._dialect
        try:
            call.request = parse(body)
        except NotJson as error:
            raise InvalidRequest(f"the request: {error}") from None
        check_messages(call.request, self._tools.settings.control.max_messages)
        named = {name: value(call.request, name) for name in _NAMING if name in call.request}
        call.user = _text(user_of(named))
        call.attribution = self._tools.gatekeeper.refine(call.attribution, named)
        call.retry_of = self._tools.retries.link(
            call.attribution, self._caller.headers, body, call.completion_id
        )
        self._external = self._tools.externals.find(named.get("model"), call.attribution.tenant)
        if not call.attribution.policy and self._external is None:
            raise InvalidRequest(
                "the request names no model: send the policy's name as `model`", param="model"
            )
        asked = dialect.to_upstream(call.request)
        if dialect.translator:
            self._translator = dialect.translator(plain(call.request), call.completion_id)
        if dialect.operation or self._external is not None:
            call.untrainable = dialect.operation or "external"
            if self._external is not None:
                asked = without_templates(asked, call.request)
            return untouched(asked, dialect.upstream_path)
        protocol = Protocol.COMPLETIONS if dialect.protocol is Protocol.COMPLETIONS else Protocol.CHAT
        prepared = prepare(asked, call.attribution.claims, protocol)
        self._forced, call.untrainable = prepared.forced, prepared.untrainable
        return prepared

    async def _converse(self, prepared: Prepared) -> Outcome:
        if self._tools.pause.paused:
            await self._tools.pause.resumed(self._tools.settings.park_timeout_s)
        answer = await self._tools.dispatcher.open(self.call, prepared, self._external)
        try:
            outcome = await (self._stream if answer.streamed else self._whole)(answer, prepared)
            self._observe()
            self._report(ok=outcome.ending.reason not in _SERVERS_FAULT)
            answer.close(finished=True)
            return outcome
        except ApiError:
            self._report(ok=False)
            raise
        finally:
            answer.close()

    def _report(self, *, ok: bool) -> None:
        if self.call.choice is not None:
            self._tools.dispatcher.report(self.call.choice, ok)

    def _observe(self) -> None:
        call = self.call
        if call.sent is not None and call.choice is not None:
            upstream, _first_token = metrics.latencies(call.choice.served)
            upstream.observe(perf_counter() - call.sent)

    async def _whole(self, answer: Answer, prepared: Prepared) -> Outcome:
        raw = await answer.body()
        headers = {"content-type": answer.content_type}
        if self._dialect.operation:
            payload = read_members(raw)
            self.capture.passed(payload)
            if self._dialect.told is None:
                return Outcome(Ending.completed(), 200, headers, raw)
            self.call.response = self._told(self._dialect.told, payload)
            return Outcome(Ending.completed(), 200, _JSON, encode(self.call.response))
        read = read_lifted(raw, prepared.wants) if self._translator is None else None
        self.capture, payload, seen = read or read_answer(raw, prepared.wants, self.capture)
        if self.capture.error is not None:
            raise UpstreamFailed(self.capture.error)
        body = raw if seen is payload else encode(seen)
        _check_answer(body)
        if self._translator is not None:
            self.call.response = self._translator.whole(payload)
            return Outcome(Ending.completed(), 200, _JSON, encode(self.call.response))
        return Outcome(Ending.completed(), 200, headers, body)

    @staticmethod
    def _told(told: Callable[[JsonObject], JsonObject], payload: Fields) -> JsonObject:
        try:
            return told(plain(payload))
        except ValueError as error:
            raise MalformedAnswer(str(error)) from None

    async def _stream(self, answer: Answer, prepared: Prepared) -> Outcome:
        self.call.streamed = True
        relay = StreamRelay(
            self.capture,
            prepared.wants,
            choices=prepared.choices,
            max_event_bytes=self._tools.settings.max_answer_bytes,
            translator=self._translator,
        )
        headers = {"content-type": answer.content_type, **_FLOWS}
        try:
            ended = await self._relay_all(answer, relay, headers)
            relay.finish()
        except ApiError as error:
            return self._broken_stream(error, relay, headers)
        if not ended:
            relay.cut()
        return Outcome(Ending.completed(), 200, headers, relay.held())

    async def _relay_all(self, answer: Answer, relay: StreamRelay, headers: dict[str, str]) -> bool:
        """Whether the stream came to its end by itself."""
        try:
            async with asyncio.timeout(None) as remainder:
                while not relay.done and (chunk := await answer.read()):
                    await self._forward(relay.feed(chunk), headers)
                    if relay.holding and remainder.when() is None:
                        remainder.reschedule(asyncio.get_running_loop().time() + _REMAINDER_S)
        except TimeoutError:
            return False
        return True

    async def _forward(self, data: bytes, headers: dict[str, str]) -> None:
        call = self.call
        if call.first_token_s is None and self.capture.sampled and call.choice is not None:
            call.first_token_s = perf_counter() - call.started
            _upstream, first_token = metrics.latencies(call.choice.served)
            first_token.observe(call.first_token_s)
        if data:
            if not self._caller.started:
                await self._caller.start(200, {**headers, **self._own_headers()})
            await self._caller.write(data)

    def _broken_stream(self, error: ApiError, relay: StreamRelay, headers: dict[str, str]) -> Outcome:
        """A stream that broke after all its choices had ended is complete; a replica's error is passed on."""
        if relay.problem() is None:
            relay.cut()
            return Outcome(Ending.completed(), 200, headers, relay.held())
        if isinstance(error, UpstreamFailed) and self._translator is None:
            return Outcome(Ending.failed(error), 200, headers, relay.held())
        return self._failed(error)

    async def _record(self, ending: Ending) -> None:
        call = self.call
        if self._translator is not None and call.streamed and self.capture.head:
            call.response = self._translator.response()
        total_s = perf_counter() - call.started
        await self._tools.recorder.record(call, records(call, ending, self.capture, total_s=total_s))

    async def _release(self, outcome: Outcome) -> None:
        try:
            if not self._caller.started:
                await self._caller.reply(
                    outcome.status, {**self._own_headers(), **outcome.headers}, outcome.body
                )
            elif outcome.status == 200:
                await self._caller.write(outcome.body, last=True)
            else:
                await self._caller.write(self._broken_event(outcome), last=True)
        except CallerGone:
            metrics.REFUSED.labels("caller_stalled_at_end").inc()

    def _broken_event(self, outcome: Outcome) -> bytes:
        """The error as the last event of a stream that had begun."""
        if self._translator is None:
            return encode_event(outcome.body)
        error = msgspec.json.decode(outcome.body).get("error", {})
        return self._translator.failed({"code": outcome.ending.reason, **error})

    def _own_headers(self) -> dict[str, str]:
        completion_id = str(self.call.completion_id)
        headers = {
            self._dialect.request_id: completion_id,
            COMPLETION_ID: completion_id,
            ROLLOUT_ID: str(self.call.attribution.rollout_id),
        }
        if self.call.choice:
            headers["x-leyden-model"] = self.call.choice.model
        if self._forced:
            headers["x-leyden-sampling"] = "forced"
            if overridden := self.call.sampling["overridden"]:
                headers["x-leyden-overridden"] = ", ".join(overridden)
        return headers


def _go_on() -> None:
    """The call was cut short by the server's stop: log and caller are still to hear of it."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _check_answer(body: bytes) -> None:
    try:
        check_readable(body)
    except NotJson as error:
        raise MalformedAnswer(f"the replica's answer: {error}") from None


def _text(asked: object) -> str | None:
    return asked[:512] if isinstance(asked, str) else None


def refusal_text(refusal: UpstreamRefused) -> str:
    """What a replica's error body says, for the record."""
    try:
        payload = msgspec.json.decode(refusal.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return refusal.body[:2000].decode("utf-8", "replace")
    return error_text(payload.get("error", payload) if isinstance(payload, dict) else payload)
