"""The span of one call, in OpenTelemetry's GenAI conventions; none is made while nobody looks at spans.

https://github.com/open-telemetry/semantic-conventions/blob/main/docs/gen-ai/gen-ai-spans.md says what the
attributes mean. None of them holds what was said: that is on the log, behind the redaction hook.
"""

from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, StatusCode

from leyden_gateway.attribution.context import trace_id
from leyden_gateway.attribution.named import Source
from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.exchange.caller import Caller
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.exchange import Exchange
from leyden_gateway.exchange.fields import value
from leyden_gateway.recording.record import Call, Ending
from leyden_platform.telemetry import trace_headers
from leyden_schemas import Protocol

Attributes = dict[str, str | int | float | bool | list[str]]

_TRACER = "leyden"
_SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "seed")
_PENALTIES = ("frequency_penalty", "presence_penalty")
_DETAILS = (
    ("gen_ai.usage.cache_read.input_tokens", "prompt_tokens_details", "cached_tokens"),
    ("gen_ai.usage.reasoning.output_tokens", "completion_tokens_details", "reasoning_tokens"),
)
_PORTS = {"http": 80, "https": 443}


def trace_context(caller: Caller, whose: Attribution) -> dict[str, str]:
    """The caller's trace if it is valid, else that of the rollout it belongs to."""
    parent = caller.header(b"traceparent")
    if parent is None or trace_id(caller.headers) is None:
        rollout = whose.claims.traceparent if whose.claims else None
        return {"traceparent": rollout} if rollout else {}
    state = caller.header(b"tracestate")
    return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}


async def traced(exchange: Exchange) -> Ending:
    """The exchange inside a span, whose context replaces the caller's for the replica and the log."""
    call = exchange.call
    parent = propagate.extract(call.trace)
    tracer = trace.get_tracer(_TRACER)
    with tracer.start_as_current_span(_name(call), context=parent, kind=SpanKind.CLIENT) as span:
        call.trace = trace_headers() or call.trace
        ending = await exchange.run()
        if span.is_recording():
            span.update_name(_name(call))
            span.set_attributes(span_attributes(call, exchange.capture, ending))
            if ending.reason:
                span.set_status(StatusCode.ERROR, ending.reason)
    return ending


def span_attributes(call: Call, capture: Capture, ending: Ending) -> Attributes:
    """Attributes of the GenAI conventions as far as they are known, and our ids."""
    whose = call.attribution
    attributes: Attributes = {
        "gen_ai.operation.name": _operation(call),
        "gen_ai.provider.name": "leyden",
        "gen_ai.usage.input_tokens": capture.prompt_tokens,
        "gen_ai.usage.output_tokens": capture.tokens - capture.prompt_tokens,
        "http.response.status_code": ending.http_status,
        "leyden.rollout_id": str(whose.rollout_id),
        "leyden.attempt": whose.attempt,
        "leyden.agent": whose.agent,
        "leyden.completion_id": str(call.completion_id),
    }
    if whose.session or whose.rollout_from is not Source.DEFAULT:
        attributes["gen_ai.conversation.id"] = whose.session or str(whose.rollout_id)
    if ending.reason:
        attributes["error.type"] = ending.reason
    return attributes | _of_request(call) | _of_answer(call, capture) | _of_server(call)


def _operation(call: Call) -> str:
    return call.operation or ("text_completion" if call.protocol is Protocol.COMPLETIONS else "chat")


def _name(call: Call) -> str:
    return f"{_operation(call)} {call.policy_ref}".rstrip()


def _of_request(call: Call) -> Attributes:
    """What the replica was asked, after training mode; what was left out of the request is left out."""
    attributes: Attributes = {
        f"gen_ai.request.{name}": call.sampling[name]
        for name in _SAMPLING
        if call.sampling.get(name) is not None
    }
    if call.policy_ref:
        attributes["gen_ai.request.model"] = call.policy_ref
    if value(call.request, "stream") is True:
        attributes["gen_ai.request.stream"] = True
    choices = value(call.request, "n")
    if type(choices) is int and choices != 1:
        attributes["gen_ai.request.choice.count"] = choices
    for name in _PENALTIES:
        penalty = value(call.request, name)
        if isinstance(penalty, int | float) and name not in call.sampling.get("overridden", ()):
            attributes[f"gen_ai.request.{name}"] = float(penalty)
    stop = value(call.request, "stop") or value(call.request, "stop_sequences")
    listed = stop if isinstance(stop, list) else [stop]
    if stops := [text for text in listed if isinstance(text, str)]:
        attributes["gen_ai.request.stop_sequences"] = stops
    return attributes | _of_format(call)


def _of_format(call: Call) -> Attributes:
    """What kind of output the request asks for, wherever its protocol says it."""
    kinds = (
        asked.get("type")
        for field, inner in (("response_format", None), ("text", "format"), ("output_config", "format"))
        if isinstance(given := value(call.request, field), dict)
        and isinstance(asked := given.get(inner) if inner else given, dict)
    )
    kind = next((kind for kind in kinds if isinstance(kind, str)), None)
    return {} if kind is None else {"gen_ai.output.type": "text" if kind == "text" else "json"}


def _of_answer(call: Call, capture: Capture) -> Attributes:
    attributes: Attributes = {}
    reasons = [choice.finish_reason for _, choice in sorted(capture.choices.items())]
    if known := [reason for reason in reasons if reason]:
        attributes["gen_ai.response.finish_reasons"] = known
    for name, group, count in _DETAILS:
        counted = (capture.usage or {}).get(group)
        if isinstance(counted, dict) and type(tokens := counted.get(count)) is int:
            attributes[name] = tokens
    told = call.response.get("id") if call.response else value(capture.head, "id")
    if isinstance(told, str):
        attributes["gen_ai.response.id"] = told
    if call.first_token_s is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = call.first_token_s
    return attributes


def _of_server(call: Call) -> Attributes:
    """The server that was chosen last, also when it did not answer."""
    if call.choice is None:
        return {}
    url = urlsplit(call.choice.replica)
    attributes: Attributes = {
        "gen_ai.response.model": call.choice.model,
        "server.address": url.hostname or call.choice.replica,
    }
    if port := url.port or _PORTS.get(url.scheme):
        attributes["server.port"] = port
    return attributes
