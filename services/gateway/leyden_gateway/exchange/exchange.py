"""One call from its body to its last byte: relay, record, release.

The order is the product's promise: the caller gets the end of its completion only after Kafka has
acknowledged the record, so whatever the agent does next lies behind it on the log.
"""

import asyncio
from dataclasses import dataclass, field
from time import perf_counter

from pydantic_core import from_json, to_json

from leyden_gateway import metrics
from leyden_gateway.errors import (
    ApiError,
    GatewayStopping,
    InvalidRequest,
    MalformedAnswer,
    UpstreamFailed,
)
from leyden_gateway.exchange.caller import Caller, CallerGone
from leyden_gateway.exchange.capture import Capture, error_text, strip
from leyden_gateway.exchange.relay import StreamRelay
from leyden_gateway.exchange.sse import encode_event
from leyden_gateway.exchange.training_mode import Prepared, prepare
from leyden_gateway.recording.record import Call, Ending, records
from leyden_gateway.recording.recorder import Recorder
from leyden_gateway.routing.dispatch import Dispatcher
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Answer, UpstreamRefused
from leyden_schemas import JsonObject


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, and what of the answer the caller has not got yet."""

    ending: Ending
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def failed(cls, error: ApiError) -> "Outcome":
        """The caller gets this error."""
        headers = {"content-type": "application/json", **error.headers()}
        return cls(Ending.failed(error), error.status, headers, to_json(error.body()))


@dataclass(frozen=True, slots=True)
class Tools:
    """What every exchange works with."""

    settings: GatewaySettings
    dispatcher: Dispatcher
    recorder: Recorder


class Exchange:
    """One call. ``run`` returns how it ended, after the caller and the log have been told."""

    def __init__(self, tools: Tools, caller: Caller, call: Call) -> None:
        self._tools, self._caller, self.call = tools, caller, call
        self.capture = Capture()
        self._forced = False

    async def run(self, body: bytes | ApiError) -> Ending:
        """Answer a request; ``body`` is its bytes, or why they could not be read."""
        outcome = await self._relay(body)
        try:
            await self._record(outcome.ending)
        except ApiError as error:
            outcome = Outcome.failed(error)
        if outcome.ending.reason != "cancelled":
            await self._release(outcome)
        return outcome.ending

    async def _relay(self, body: bytes | ApiError) -> Outcome:
        try:
            if isinstance(body, ApiError):
                return Outcome.failed(body)
            async with self._caller.present(self._tools.settings.request_timeout_s):
                return await self._converse(body)
        except ApiError as error:
            return Outcome.failed(error)
        except UpstreamRefused as refusal:
            ending = Ending.refused(refusal.status, refusal_text(refusal))
            return Outcome(ending, refusal.status, refusal.headers, refusal.body)
        except CallerGone as gone:
            return Outcome(Ending.cancelled(str(gone)))
        except asyncio.CancelledError:
            await self._record(Ending.failed(GatewayStopping("the gateway was stopped")))
            raise

    async def _converse(self, body: bytes) -> Outcome:
        self.call.request = request = parse_request(body)
        prepared = prepare(request, self.call.attribution.claims)
        self.call.sampling, self._forced = prepared.sampling, prepared.forced
        answer = await self._tools.dispatcher.open(self.call, prepared)
        try:
            outcome = await (self._stream if answer.streamed else self._whole)(answer, prepared)
            metrics.UPSTREAM_SECONDS.observe(perf_counter() - (self.call.sent or self.call.started))
            answer.close(finished=True)
            return outcome
        finally:
            answer.close()

    async def _whole(self, answer: Answer, prepared: Prepared) -> Outcome:
        raw = await answer.body()
        try:
            payload = from_json(raw)
        except ValueError as error:
            raise MalformedAnswer(f"the replica's answer is not JSON: {error}") from None
        self.capture.whole(payload)
        if self.capture.error is not None:
            raise UpstreamFailed(self.capture.error)
        changed = strip(payload, prepared.wants)
        headers = {"content-type": answer.content_type}
        return Outcome(Ending.completed(), 200, headers, to_json(payload) if changed else raw)

    async def _stream(self, answer: Answer, prepared: Prepared) -> Outcome:
        self.call.streamed = True
        relay = StreamRelay(
            self.capture,
            prepared.wants,
            choices=prepared.choices,
            max_event_bytes=self._tools.settings.max_answer_bytes,
        )
        headers = {"content-type": answer.content_type, "cache-control": "no-cache"}
        try:
            while not relay.done and (chunk := await answer.read()):
                await self._forward(relay.feed(chunk), headers)
            relay.finish()
        except ApiError as error:
            return self._broken_stream(error, relay, headers)
        return Outcome(Ending.completed(), 200, headers, relay.held())

    async def _forward(self, data: bytes, headers: dict[str, str]) -> None:
        if self.call.first_token_s is None and self.capture.sampled:
            self.call.first_token_s = perf_counter() - self.call.started
            metrics.FIRST_TOKEN_SECONDS.observe(self.call.first_token_s)
        if data:
            if not self._caller.started:
                await self._caller.start(200, {**headers, **self._own_headers()})
            await self._caller.write(data)

    def _broken_stream(self, error: ApiError, relay: StreamRelay, headers: dict[str, str]) -> Outcome:
        """A stream that broke after all its choices had ended is complete; a replica's error is passed on."""
        if relay.problem() is None:
            return Outcome(Ending.completed(), 200, headers, relay.held())
        if isinstance(error, UpstreamFailed):
            return Outcome(Ending.failed(error), 200, headers, relay.held())
        return Outcome.failed(error)

    async def _record(self, ending: Ending) -> None:
        total_s = perf_counter() - self.call.started
        await self._tools.recorder.record(records(self.call, ending, self.capture, total_s=total_s))

    async def _release(self, outcome: Outcome) -> None:
        try:
            if not self._caller.started:
                await self._caller.reply(
                    outcome.status, {**outcome.headers, **self._own_headers()}, outcome.body
                )
            elif outcome.status == 200:
                await self._caller.write(outcome.body, last=True)
            else:
                await self._caller.write(encode_event(outcome.body), last=True)
        except CallerGone:
            metrics.REFUSED.labels("caller_stalled_at_end").inc()

    def _own_headers(self) -> dict[str, str]:
        headers = {"x-leyden-completion-id": str(self.call.completion_id)}
        if self.call.choice:
            headers["x-leyden-model"] = self.call.choice.model
        if self._forced:
            headers["x-leyden-sampling"] = "forced"
        return headers


def parse_request(body: bytes) -> JsonObject:
    """The request as the caller sent it. Raises ``InvalidRequest``."""
    try:
        request = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the request is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidRequest("the request must be a JSON object")
    return request


def refusal_text(refusal: UpstreamRefused) -> str:
    """What a replica's error body says, for the record."""
    try:
        payload = from_json(refusal.body)
    except ValueError:
        return refusal.body[:2000].decode("utf-8", "replace")
    return error_text(payload.get("error", payload) if isinstance(payload, dict) else payload)
