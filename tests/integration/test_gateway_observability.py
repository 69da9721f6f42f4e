"""What operators see of calls: spans in OpenTelemetry's GenAI conventions, and metrics that move."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from counters import Growth
from gateway_harness import Gateway
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from protocols import CHAT, COMPLETIONS, DIALECTS, MESSAGES, RESPONSES, Dialect, Stage, events_of, stage
from starlette.responses import JSONResponse, Response
from vllm_stub import PROMPT_IDS, Json, VllmStub, error, eventually

from leyden_platform import telemetry
from leyden_platform.settings import KafkaSettings

pytestmark = pytest.mark.kafka

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
SAMPLED = 5
"""Tokens of the stand-in's reply."""


@pytest.fixture
async def on(kafka: KafkaSettings) -> AsyncIterator[Stage]:
    async with stage(kafka, allow_anonymous=True, upstream_attempts=2) as running:
        yield running


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Somebody looks at spans, until the test ends."""
    monkeypatch.setattr(telemetry, "_exporting", False)
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    exporter = InMemorySpanExporter()
    telemetry.export_to(provider, SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


async def only(spans: InMemorySpanExporter) -> ReadableSpan:
    await eventually(lambda: len(spans.get_finished_spans()) > 0)
    (span,) = spans.get_finished_spans()
    return span


def traceparent(span: ReadableSpan) -> str:
    """What those whom this span calls are told."""
    assert span.context
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def genai(span: ReadableSpan) -> dict[str, Any]:
    """The attributes that the conventions name."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in (span.attributes or {}).items()
        if not name.startswith("leyden.")
    }


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_the_span_of_a_call(
    on: Stage, spans: InMemorySpanExporter, dialect: Dialect, *, streamed: bool
) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=streamed, temperature=0.5, max_tokens=64)
    (record,) = await on.gateway.completions(claims.rollout_id)
    span = await only(spans)
    operation = "text_completion" if dialect is COMPLETIONS else "chat"
    assert (span.name, span.kind) == (f"{operation} {on.gateway.policy}", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    server = urlsplit(on.stub.url)
    found = genai(span)
    first = found.pop("gen_ai.response.time_to_first_chunk", None)
    assert (first is not None and 0 < first < 10) is streamed
    told = events_of(answer) if streamed else answer.json()
    assert found.pop("gen_ai.response.id") == response_id(told)
    assert found == {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "leyden",
        "gen_ai.request.model": on.gateway.policy,
        "gen_ai.request.temperature": 0.9,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": -1,
        "gen_ai.request.max_tokens": 64,
        **({"gen_ai.request.stream": True} if streamed else {}),
        "gen_ai.response.model": f"{on.gateway.policy}@1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": len(PROMPT_IDS),
        "gen_ai.usage.output_tokens": SAMPLED,
        "gen_ai.conversation.id": str(claims.rollout_id),
        "server.address": server.hostname,
        "server.port": server.port,
        "http.response.status_code": 200,
    }
    attributes = span.attributes or {}
    assert attributes["leyden.completion_id"] == str(record.completion_id)
    assert attributes["leyden.rollout_id"] == str(claims.rollout_id)
    assert (attributes["leyden.attempt"], attributes["leyden.agent"]) == (2, "main")


def response_id(told: Any) -> str:
    """The id of an answer, whole or as events."""
    head = told[0] if isinstance(told, list) else told
    return str((head.get("response") or head.get("message") or head)["id"])


async def test_alternatives_seed_and_session(on: Stage, spans: InMemorySpanExporter) -> None:
    session = f"session-{uuid4()}"
    body = {**CHAT.request, "model": on.gateway.policy, "n": 2, "seed": 7}
    await on.ask(CHAT, None, body, headers={"x-leyden-session": session})
    found = genai(await only(spans))
    assert found["gen_ai.response.finish_reasons"] == ["stop", "stop"]
    assert (found["gen_ai.request.choice.count"], found["gen_ai.request.seed"]) == (2, 7)
    assert found["gen_ai.conversation.id"] == session
    assert found["gen_ai.usage.output_tokens"] == 2 * SAMPLED
    assert "gen_ai.request.temperature" not in found, "production traffic is left alone"


async def test_what_a_request_asks_for_beside_sampling(on: Stage, spans: InMemorySpanExporter) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}, "schema": {}, "name": "n"}
    for dialect, fields, stops in (
        (CHAT, {"response_format": schema, "stop": "a", "presence_penalty": 1}, ["a"]),
        (COMPLETIONS, {"stop": ["a", "b"], "frequency_penalty": 0.5}, ["a", "b"]),
        (RESPONSES, {"text": {"format": schema}, "stop": 5}, None),
        (MESSAGES, {"output_config": {"format": schema}, "stop_sequences": ["a"]}, ["a"]),
    ):
        await on.ask(dialect, None, model=on.gateway.policy, **fields)
        found = genai(await only(spans))
        spans.clear()
        assert found.get("gen_ai.output.type") == (None if dialect is COMPLETIONS else "json")
        assert found.get("gen_ai.request.stop_sequences") == stops
        assert found.get("gen_ai.request.presence_penalty") == fields.get("presence_penalty")
        assert found.get("gen_ai.request.frequency_penalty") == fields.get("frequency_penalty")
    await on.ask(CHAT, on.gateway.claims(), presence_penalty=1)
    assert "gen_ai.request.presence_penalty" not in genai(await only(spans)), "overridden in training"


async def test_tokens_from_a_cache_and_of_reasoning(on: Stage, spans: InMemorySpanExporter) -> None:
    def whole(body: Json) -> Response:
        answer = VllmStub.whole(on.stub, body)
        details = {
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 1},
        }
        return JSONResponse({**answer, "usage": {**answer["usage"], **details}})

    on.stub.fail = whole
    await on.ask(CHAT, on.gateway.claims())
    found = genai(await only(spans))
    assert found["gen_ai.usage.cache_read.input_tokens"] == 2
    assert found["gen_ai.usage.reasoning.output_tokens"] == 1


async def test_embeddings_are_an_operation_of_their_own(on: Stage, spans: InMemorySpanExporter) -> None:
    url = f"{on.gateway.url}/v1/embeddings"
    answer = await on.http.post(url, json={"model": on.gateway.policy, "input": "3 * 4?"})
    assert answer.status_code == 200
    span = await only(spans)
    found = genai(span)
    assert span.name == f"embeddings {on.gateway.policy}"
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert not {"gen_ai.conversation.id", "gen_ai.response.finish_reasons"} & found.keys()


async def test_a_span_continues_the_caller_s_trace_to_the_replica_and_the_log(
    on: Stage, spans: InMemorySpanExporter
) -> None:
    claims = on.gateway.claims(traceparent=f"00-{uuid4().hex}-{PARENT}-01")
    await on.ask(CHAT, claims, headers=CALLER)
    span = await only(spans)
    assert span.context
    assert span.parent
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    own = traceparent(span)
    assert own.startswith(f"00-{TRACE}-")
    sent = on.stub.headers[0]
    assert (sent["traceparent"], sent["tracestate"]) == (own, "vendor=1")
    (record,) = await on.gateway.log_now(claims.rollout_id)
    assert (record.headers["traceparent"], record.headers["tracestate"]) == (own, "vendor=1")


@pytest.mark.parametrize("header", [{}, {"traceparent": "nonsense"}, {"tracestate": "orphan=1"}])
async def test_a_rollout_s_trace_is_the_parent_where_the_caller_has_none(
    on: Stage, spans: InMemorySpanExporter, header: dict[str, str]
) -> None:
    await on.ask(CHAT, on.gateway.claims(traceparent=CALLER["traceparent"]), headers=header)
    span = await only(spans)
    assert span.context
    assert span.parent
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert "tracestate" not in on.stub.headers[0]


@pytest.mark.parametrize("header", [{}, {"traceparent": "nonsense"}])
async def test_a_call_without_a_trace_begins_one(
    on: Stage, spans: InMemorySpanExporter, header: dict[str, str]
) -> None:
    await on.ask(CHAT, on.gateway.claims(), headers=header)
    span = await only(spans)
    assert span.context
    assert span.parent is None
    assert on.stub.headers[0]["traceparent"] == traceparent(span)


@pytest.mark.parametrize("trace_flags", ["00", "01"])
async def test_without_an_exporter_the_caller_s_trace_passes_unchanged(on: Stage, trace_flags: str) -> None:
    assert not telemetry.exporting()
    caller = CALLER | {"traceparent": f"00-{TRACE}-{PARENT}-{trace_flags}"}
    claims = on.gateway.claims()
    await on.ask(CHAT, claims, headers=caller)
    (record,) = await on.gateway.log_now(claims.rollout_id)
    for headers in (on.stub.headers[0], record.headers):
        assert {name: headers[name] for name in caller} == caller


@pytest.mark.parametrize(
    ("failing", "status", "reason"),
    [
        ("replica", 500, "upstream_error"),
        ("request", 400, "invalid_request"),
        ("model", 404, "model_not_found"),
    ],
)
async def test_the_span_of_a_failure(
    on: Stage, spans: InMemorySpanExporter, failing: str, status: int, reason: str
) -> None:
    on.stub.fail = lambda _body: error(500, "the secret is 12") if failing == "replica" else None
    claims = on.gateway.claims("@9" if failing == "model" else "")
    answer = await on.ask(CHAT, claims, content=b"{" if failing == "request" else None)
    assert answer.status_code == status
    span = await only(spans)
    found = genai(span)
    assert (found["error.type"], found["http.response.status_code"]) == (reason, status)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, reason)
    assert ("server.address" in found) is (failing == "replica")
    assert "secret" not in span.to_json(), "what was said belongs on the log only"


# Metrics


def total(gateway: Gateway, name: str, **labels: str) -> float:
    return gateway.metric(f"leyden_gateway_{name}", **labels)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dialect", [CHAT, RESPONSES, MESSAGES], ids=str)
async def test_what_a_call_counts(on: Stage, dialect: Dialect, *, streamed: bool) -> None:
    gateway, claims, told = on.gateway, on.gateway.claims(), str(streamed).lower()
    policy = gateway.policy
    answered = Growth("leyden_gateway_requests_total", "status", protocol=str(dialect), streamed=told)
    served = {"policy": policy, "version": "1", "replica": on.stub.url}
    moved = Growth("leyden_gateway_bytes_total", "direction", **served)
    seconds = Growth("leyden_gateway_request_seconds_count", "streamed")
    first = total(gateway, "first_token_seconds_count", **served)
    recorded = total(gateway, "record_seconds_count")
    answer = await on.ask(dialect, claims, stream=streamed)
    (raw,) = await gateway.log_now(claims.rollout_id)
    await eventually(lambda: "answer" in moved())
    assert answered() == {"200": 1}
    assert seconds() == {told: 1}
    assert moved() == {
        "request": len(answer.request.content),
        "answer": len(answer.content),
        "record": len(raw.value or b""),
    }
    assert total(gateway, "first_token_seconds_count", **served) - first == streamed
    assert total(gateway, "record_seconds_count") - recorded == 1
    assert total(gateway, "upstream_seconds_count", **served) == 1
    assert total(gateway, "recorded_total", **served, status="ok", untrainable="") == 1
    assert total(gateway, "tokens_total", **served, kind="prompt") == len(PROMPT_IDS)
    assert total(gateway, "tokens_total", **served, kind="sampled") == SAMPLED


async def test_refusals_are_counted_by_reason_with_their_bytes(on: Stage) -> None:
    refused = Growth("leyden_gateway_refused_total", "reason")
    answered = Growth("leyden_gateway_requests_total", "status", protocol="chat")
    moved = Growth("leyden_gateway_bytes_total", "direction")
    url = f"{on.gateway.url}/rollouts/{uuid4()}/attempts/1/v1/chat/completions"
    answer = await on.http.post(url, json=CHAT.request)
    assert answer.status_code == 401
    await eventually(lambda: "answer" in moved())
    assert (refused(), answered()) == ({"missing_token": 1}, {"401": 1})
    assert moved().keys() == {"answer", "record"}, "its body was not read"
    assert moved()["answer"] == len(answer.content)


async def test_retries_queues_and_parked_calls_are_counted(on: Stage) -> None:
    gateway = on.gateway
    served = {"policy": gateway.policy, "version": "1", "replica": on.stub.url}
    retries = Growth("leyden_gateway_upstream_retries_total", "reason", **served)
    waits = Growth("leyden_gateway_park_waits_total", "outcome", policy=gateway.policy)
    queued = total(gateway, "queue_seconds_count")
    answers = iter([error(503, "busy"), None])
    on.stub.fail = lambda _body: next(answers, None)
    assert (await on.ask(CHAT, gateway.claims())).status_code == 200
    assert retries() == {"503": 1}
    on.stub.models.clear()
    await eventually(lambda: not gateway.replicas.states()[0].models)
    parked = asyncio.create_task(on.ask(CHAT, gateway.claims()))
    await eventually(lambda: total(gateway, "parked", policy=gateway.policy) == 1)
    assert total(gateway, "in_flight") == 1
    on.stub.models.add(f"{gateway.policy}@1")
    assert (await parked).status_code == 200
    assert total(gateway, "parked") == 0
    assert sum(waits().values()) >= 1
    assert total(gateway, "queue_seconds_count") > queued
