"""Whatever goes wrong, in every protocol: an error its clients understand, a record, nothing left over."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import vllm_text
from protocols import CHAT, COMPLETIONS, DIALECTS, MESSAGES, RESPONSES, Dialect, Json, Stage, events_of, stage
from starlette.responses import PlainTextResponse, Response
from vllm_stub import FIRST_ID, VllmStub, error, eventually, sse

from leyden_gateway.recording.settings import RecordingSettings
from leyden_platform import one_write
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import CompletionRecorded, CompletionStatus, Protocol

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 512 * 1024
TCP_CLOSE = 7
"""The state of a connection that the other side has reset."""
HUGE = 200 * 1024 * 1024
MESSAGES_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's error types: https://docs.anthropic.com/en/api/errors"""
STATUS = {
    "truncated_stream": 502,
    "malformed_answer": 502,
    "upstream_error": 502,
    "upstream_timeout": 504,
    "upstream_unavailable": 503,
}

every_protocol = pytest.mark.parametrize("dialect", DIALECTS, ids=str)
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(kafka: KafkaSettings) -> AsyncIterator[Stage]:
    patience = {"stall_timeout_s": 0.4, "caller_stall_timeout_s": 0.4, "body_timeout_s": 0.4}
    recording = RecordingSettings(refusals_per_minute=100_000)
    async with stage(
        kafka, max_body_bytes=LIMIT, upstream_attempts=2, recording=recording, **patience
    ) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def on(shared: Stage) -> AsyncIterator[Stage]:
    """The stage as each test finds it, and has to leave it: no call, place or connection is left over."""
    shared.stub.reset()
    yield shared
    await shared.gateway.rest()


def assert_error(dialect: Dialect, answer: httpx.Response, status: int, reason: str) -> str:
    """The answer is this error in the protocol's terms; its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    kind, message = dialect.error(answer.json())
    assert kind == (MESSAGES_KINDS[status] if dialect is MESSAGES else reason)
    assert message
    return message


async def assert_recorded(
    on: Stage, claims: RolloutClaims, reason: str, status: CompletionStatus = CompletionStatus.ERROR
) -> CompletionRecorded:
    (record,) = await on.gateway.completions(claims.rollout_id)
    assert (record.untrainable, record.status) == (reason, status)
    return record


# Callers: what they send


def with_text(dialect: Dialect, text: bytes) -> bytes:
    """The protocol's question with ``text`` where the question is."""
    return json.dumps(dialect.request).encode().replace(b"3 * 4?", text)


BODIES: dict[str, Any] = {
    "not JSON": lambda _dialect: b"not json",
    "nothing": lambda _dialect: b"",
    "half of it": lambda dialect: json.dumps(dialect.request).encode()[:-9],
    "a list": lambda _dialect: b"[1]",
    "NaN": lambda dialect: json.dumps({**dialect.request, "temperature": float("nan")}).encode(),
    "invalid UTF-8": lambda dialect: with_text(dialect, b"\xff\xfe"),
    "half a surrogate pair": lambda dialect: with_text(dialect, rb"\ud83d"),
    "UTF-16": lambda dialect: json.dumps(dialect.request).encode("utf-16"),
    "nested too deeply": lambda dialect: with_text(
        dialect, b'", "x": %b"' % (b'["]",' * 200 + b'"["' + b"]" * 200)
    ),
    "endless brackets": lambda _dialect: b'{"a":' * 20_000,
    "an endless number": lambda dialect: (
        json.dumps({**dialect.request, "seed": 0}).encode()[:-2] + b"9" * 5000 + b"}"
    ),
}


@every_protocol
@pytest.mark.parametrize("what", BODIES)
async def test_bodies_that_are_not_requests(on: Stage, dialect: Dialect, what: str) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, content=BODIES[what](dialect))
    assert_error(dialect, answer, 400, "invalid_request")
    record = await assert_recorded(on, claims, "invalid_request")
    assert (record.protocol, record.http_status, record.request) == (dialect.protocol, 400, {})
    assert not on.stub.requests


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        (RESPONSES, {"input": 5}),
        (RESPONSES, {"conversation": {"id": "c"}, "previous_response_id": "r"}),
        (MESSAGES, {"messages": "hello"}),
        (MESSAGES, {"max_tokens": None}),
        (MESSAGES, {"max_tokens": 1, "tools": [5]}),
    ],
    ids=str,
)
async def test_requests_that_cannot_be_translated(on: Stage, dialect: Dialect, fields: Json) -> None:
    claims = on.gateway.claims()
    assert_error(dialect, await on.ask(dialect, claims, **fields), 400, "invalid_request")
    record = await assert_recorded(on, claims, "invalid_request")
    assert record.request == {**dialect.request, **fields}
    assert not on.stub.requests


async def raw_call(
    on: Stage, dialect: Dialect, claims: RolloutClaims, headers: str, token: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the head of a request has been sent."""
    url, own = on.target(dialect, claims)
    target = httpx.URL(url)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in (dialect.headers(token) if token else own).items()
    )
    writer.write(f"POST {target.path} HTTP/1.1\r\nhost: gateway\r\n{lines}{headers}\r\n".encode())
    return reader, writer


async def raw_answer(reader: asyncio.StreamReader) -> httpx.Response:
    """One answer with a length, after which the connection will end."""
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers["content-length"]))
    assert headers["connection"] == "close"
    return httpx.Response(int(status.split(" ")[1]), headers=headers, content=body)


@every_protocol
async def test_a_body_of_200_mb_is_refused_by_its_announcement(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    async with asyncio.timeout(5):
        reader, writer = await raw_call(on, dialect, claims, f"content-length: {HUGE}\r\n")
        assert_error(dialect, await raw_answer(reader), 413, "request_too_large")
        if dialect is CHAT:
            assert await reader.read() == b"", "the gateway does not wait for the body"
        writer.close()
    await assert_recorded(on, claims, "request_too_large")


@every_protocol
async def test_a_body_of_200_mb_that_is_not_announced_is_not_read(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    piece = b"%x\r\n%b\r\n" % (64 * 1024, b" " * 64 * 1024)
    async with asyncio.timeout(10):
        reader, writer = await raw_call(on, dialect, claims, "transfer-encoding: chunked\r\n")
        answering = asyncio.create_task(raw_answer(reader))
        sent = 0
        while sent < HUGE and not answering.done():
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)
        assert_error(dialect, await answering, 413, "request_too_large")
        writer.close()
    assert sent < HUGE / 10
    await assert_recorded(on, claims, "request_too_large")


@every_protocol
async def test_a_body_that_never_comes(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    async with asyncio.timeout(5):
        reader, writer = await raw_call(on, dialect, claims, "content-length: 100\r\n")
        writer.write(b'{"half":')
        answer = await raw_answer(reader)
        writer.close()
    assert answer.status_code == 408
    assert dialect.error(answer.json())[0] == (
        MESSAGES_KINDS[408] if dialect is MESSAGES else "request_timeout"
    )
    await assert_recorded(on, claims, "request_timeout")


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        (CHAT, {"messages": [{"role": "user"}] * 10_000}),
        (MESSAGES, {"messages": [{"role": "user", "content": "x"}] * 10_000, "max_tokens": 1}),
        (RESPONSES, {"input": [{"role": "user"}] * 10_000}),
        (COMPLETIONS, {"prompt": ["x"] * 10_000}),
    ],
    ids=["chat", "messages", "responses", "completions"],
)
async def test_ten_thousand_messages(on: Stage, dialect: Dialect, fields: Json) -> None:
    claims = on.gateway.claims()
    body = {"model": "m", **fields}
    content = json.dumps(body, separators=(",", ":")).encode()
    answer = await on.ask(dialect, claims, content=content)
    message = assert_error(dialect, answer, 400, "too_many_messages")
    assert "10000 items" in message
    record = await assert_recorded(on, claims, "too_many_messages")
    assert record.request == body
    assert not on.stub.requests


# Callers: who they are


@every_protocol
async def test_keys_that_open_nothing(on: Stage, dialect: Dialect) -> None:
    claims, other = on.gateway.claims(), on.gateway.claims()
    token = on.gateway.token(claims)
    own = on.target(dialect, claims)[0]
    refused: list[tuple[str | None, str, int, str]] = [
        (None, own, 401, "missing_token"),
        ("sk-nonsense", own, 401, "invalid_token"),
        (f"{token[:-4]}AAAA", own, 401, "invalid_token"),
        (on.gateway.token(claims, ttl_s=-60), own, 401, "invalid_token"),
        (on.gateway.token(other), own, 403, "wrong_rollout"),
        (on.gateway.token(claims.model_copy(update={"attempt": 9})), own, 403, "wrong_rollout"),
    ]
    for key, url, status, reason in refused:
        before = on.gateway.metric("leyden_gateway_refused_total", reason=reason)
        headers = dialect.headers(key) if key else {}
        answer = await on.http.post(url, json=dialect.request, headers=headers)
        assert_error(dialect, answer, status, reason)
        assert on.gateway.metric("leyden_gateway_refused_total", reason=reason) == before + 1
        await assert_refusal_recorded(on, dialect, answer, reason)
    assert not on.stub.requests
    assert not await on.gateway.log_now(claims.rollout_id)
    assert not await on.gateway.log_now(other.rollout_id)


async def assert_refusal_recorded(on: Stage, dialect: Dialect, answer: httpx.Response, reason: str) -> None:
    """The log has it as a session of its own, which is nobody's, when the caller hears of it."""
    messages = [record.message() for record in await on.gateway.log_now()]
    told = answer.headers["x-leyden-completion-id"]
    assert answer.headers["request-id" if dialect.protocol is Protocol.MESSAGES else "x-request-id"] == told
    (record,) = [message for message in messages if str(message.completion_id) == told]
    assert isinstance(record, CompletionRecorded)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, reason)
    assert (record.http_status, record.protocol) == (answer.status_code, dialect.protocol)
    assert (record.tenant, record.run, record.mode, record.request) == (
        "default",
        "default",
        "production",
        {},
    )
    assert record.error == dialect.error(answer.json())[1]
    assert record.client.startswith("python-httpx")


@every_protocol
async def test_a_huge_body_with_a_bad_key_is_not_read(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    expired = on.gateway.token(claims, ttl_s=-60)
    async with asyncio.timeout(5):
        reader, writer = await raw_call(on, dialect, claims, f"content-length: {HUGE}\r\n", token=expired)
        assert_error(dialect, await raw_answer(reader), 401, "invalid_token")
        writer.close()


@every_protocol
@both_ways
async def test_a_model_nobody_published(on: Stage, dialect: Dialect, *, streamed: bool) -> None:
    claims = on.gateway.claims("#canary")
    answer = await on.ask(dialect, claims, stream=streamed)
    assert "it has: serving" in assert_error(dialect, answer, 404, "model_not_found")
    record = await assert_recorded(on, claims, "model_not_found")
    assert record.request == {**dialect.request, "stream": streamed}


@every_protocol
async def test_other_methods_and_routes(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    url, headers = on.target(dialect, claims)
    wrong_method = await on.http.get(url, headers=headers)
    assert wrong_method.status_code == 405
    dialect.error(wrong_method.json())
    nowhere = await on.http.post(f"{url}/nothing", headers=headers, json=dialect.request)
    assert nowhere.status_code == 404


# Callers: who leave, or do not listen


@every_protocol
@both_ways
async def test_a_caller_who_hangs_up(on: Stage, dialect: Dialect, *, streamed: bool) -> None:
    on.stub.gate.clear()
    claims = on.gateway.claims()
    calling = asyncio.create_task(on.ask(dialect, claims, stream=streamed))
    await asyncio.wait_for(on.stub.arrived.wait(), 5)
    calling.cancel()
    record = await assert_recorded(on, claims, "cancelled", CompletionStatus.CANCELLED)
    assert (record.http_status, record.version) == (499, 1)
    await asyncio.wait_for(on.stub.hung_up.wait(), 5)


@every_protocol
async def test_what_was_said_before_the_hang_up_is_recorded(on: Stage, dialect: Dialect) -> None:
    on.stub.gate.clear()
    claims = on.gateway.claims()
    text = ""
    async with on.streaming(dialect, claims) as events:
        async for event in events:
            text += dialect.piece(event)
            if text == on.stub.reply:
                break
    record = await assert_recorded(on, claims, "cancelled", CompletionStatus.CANCELLED)
    assert record.token_ids == [FIRST_ID + i for i in range(4)]
    assert record.response is not None
    assert dialect.said(record.response) == on.stub.reply


async def endless(stub: VllmStub, dialect: Dialect, body: Json) -> AsyncIterator[bytes]:
    text = "x" * 100_000
    while True:
        if dialect is COMPLETIONS:
            yield sse({**vllm_text.head(body), "choices": [{"index": 0, "text": text}]})
        else:
            yield sse(stub.chunk(body, 0, {"content": text}, None))
        await asyncio.sleep(0)


@every_protocol
async def test_a_caller_who_never_reads(on: Stage, dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_write, "PATIENCE_S", 0.2)
    on.stub.events = lambda body: endless(on.stub, dialect, body)
    claims = on.gateway.claims()
    url, own = on.target(dialect, claims)
    body = json.dumps({**dialect.request, "stream": True}).encode()
    target = httpx.URL(url)
    headers = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    head = f"POST {target.path} HTTP/1.1\r\nhost: g\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((target.host, target.port))
        caller.sendall(head.encode() + body)
        record = await assert_recorded(on, claims, "cancelled", CompletionStatus.CANCELLED)
        await on.gateway.rest()
        await eventually(lambda: caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE)
    assert record.error is not None
    assert "read nothing" in record.error
    await asyncio.wait_for(on.stub.hung_up.wait(), 5)


# Replicas: what they answer

BAD_ANSWERS = {
    "truncated JSON": (b'{"choices": [{"ind', "malformed_answer"),
    "not JSON": (b"<html>", "malformed_answer"),
    "not an object": (b"[]", "malformed_answer"),
    "nothing": (b"", "malformed_answer"),
    "invalid UTF-8": (b'{"choices": [{"message": {"content": "\xff"}}]}', "malformed_answer"),
    "no choices": (b"{}", "malformed_answer"),
    "odd choices": (b'{"choices": [5]}', "malformed_answer"),
    "odd token ids": (b'{"choices": [{"token_ids": ["a"]}]}', "malformed_answer"),
    "an error with status 200": (b'{"error": {"message": "oom"}}', "upstream_error"),
}


@every_protocol
@pytest.mark.parametrize("what", BAD_ANSWERS)
async def test_whole_answers_that_are_broken(on: Stage, dialect: Dialect, what: str) -> None:
    content, reason = BAD_ANSWERS[what]
    on.stub.fail = lambda _body: Response(content, media_type="application/json")
    claims = on.gateway.claims()
    assert_error(dialect, await on.ask(dialect, claims), STATUS[reason], reason)
    record = await assert_recorded(on, claims, reason)
    assert (record.http_status, record.version, record.request) == (502, 1, dialect.request)


@every_protocol
async def test_a_replica_that_closes_in_the_middle_of_a_whole_answer(on: Stage, dialect: Dialect) -> None:
    on.stub.fail = lambda _body: PlainTextResponse("{", headers={"content-length": "100"})
    claims = on.gateway.claims()
    assert_error(dialect, await on.ask(dialect, claims), 502, "truncated_stream")
    await assert_recorded(on, claims, "truncated_stream")


@every_protocol
async def test_a_replica_that_stalls_before_its_answer(on: Stage, dialect: Dialect) -> None:
    on.stub.gate.clear()
    claims = on.gateway.claims()
    assert_error(dialect, await on.ask(dialect, claims), 504, "upstream_timeout")
    await assert_recorded(on, claims, "upstream_timeout")
    await asyncio.wait_for(on.stub.hung_up.wait(), 5)


@every_protocol
@both_ways
async def test_a_replica_that_refuses(on: Stage, dialect: Dialect, *, streamed: bool) -> None:
    on.stub.fail = lambda _body: error(422, "n must be 1", headers={"retry-after": "7"})
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=streamed)
    assert (answer.status_code, answer.headers["retry-after"]) == (422, "7")
    if dialect is MESSAGES:
        assert dialect.error(answer.json()) == ("invalid_request_error", "n must be 1")
    else:
        assert answer.content == error(422, "n must be 1").body
    record = await assert_recorded(on, claims, "upstream_error")
    assert (record.http_status, record.error) == (422, "n must be 1")


@every_protocol
async def test_a_replica_that_stays_unavailable_is_quoted(on: Stage, dialect: Dialect) -> None:
    on.stub.fail = lambda _body: error(503, "warming up", "ServiceUnavailable")
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "warming up"
    await assert_recorded(on, claims, "upstream_error")


@every_protocol
@both_ways
@pytest.mark.parametrize(
    ("token_ids", "extra", "reason"),
    [(False, 0, "no_token_ids"), (True, 2, "logprobs_mismatch")],
    ids=["no token ids", "more logprobs than tokens"],
)
async def test_answers_that_cannot_be_trained_on_still_reach_the_caller(
    on: Stage, dialect: Dialect, *, token_ids: bool, extra: int, reason: str, streamed: bool
) -> None:
    on.stub.token_ids, on.stub.extra_logprobs = token_ids, extra
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=streamed)
    said = "".join(map(dialect.piece, events_of(answer))) if streamed else dialect.said(answer.json())
    assert said == on.stub.reply
    record = await assert_recorded(on, claims, reason, CompletionStatus.OK)
    assert record.logprobs == []


# Replicas: what they stream


async def broken_stream(stub: VllmStub, dialect: Dialect, body: Json, how: str) -> AsyncIterator[bytes]:
    """Three good events, then trouble."""
    source = vllm_text.stream(stub, body) if dialect is COMPLETIONS else stub.stream(body)
    for _ in range(3):
        yield await anext(source)
    match how:
        case "not JSON":
            yield b"data: {oops\n\n"
        case "not an object":
            yield b"data: [1]\n\n"
        case "invalid UTF-8":
            yield b'data: {"choices": "\xff"}\n\n'
        case "odd token ids":
            yield b'data: {"choices": [{"index": 0, "token_ids": [[1]]}]}\n\n'
        case "half an event":
            yield b'data: {"choices": [{"index": 0,'
        case "only an end":
            yield b"data: [DONE]\n\n"
        case "reports an error":
            yield b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n'
        case "stalls":
            await asyncio.Event().wait()
        case "raises":
            raise ConnectionError


BROKEN_STREAMS = {
    "ends early": "truncated_stream",
    "only an end": "truncated_stream",
    "half an event": "malformed_answer",
    "not JSON": "malformed_answer",
    "not an object": "malformed_answer",
    "invalid UTF-8": "malformed_answer",
    "odd token ids": "malformed_answer",
    "reports an error": "upstream_error",
    "stalls": "upstream_timeout",
    "raises": "truncated_stream",
}


@every_protocol
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", BROKEN_STREAMS)
async def test_streams_that_break(on: Stage, dialect: Dialect, how: str) -> None:
    on.stub.events = lambda body: broken_stream(on.stub, dialect, body, how)
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=True)
    assert answer.status_code == 200
    events = events_of(answer)
    tokens = 3 if dialect is COMPLETIONS else 2
    said = "".join(on.stub.words()[:tokens])
    assert "".join(map(dialect.piece, events)) == said
    assert not [event for event in events if dialect.acts(event)]
    reason = BROKEN_STREAMS[how]
    if how == "reports an error" and dialect in (CHAT, COMPLETIONS):
        assert events[-1]["error"]["message"] == "out of memory", "as the replica said it"
    else:
        kind, message = dialect.broke(events)
        assert kind == (MESSAGES_KINDS[STATUS[reason]] if dialect is MESSAGES else reason)
        assert message
    record = await assert_recorded(on, claims, reason)
    assert record.token_ids == [FIRST_ID + i for i in range(tokens)]
    assert len(record.logprobs) == tokens
    assert (record.finish_reason, record.http_status) == (None, STATUS[reason])
    assert record.response is not None
    assert dialect.said(record.response) == said


async def nothing(_body: Json) -> AsyncIterator[bytes]:
    empty: list[bytes] = []
    for piece in empty:
        yield piece


@every_protocol
async def test_a_stream_that_breaks_before_its_first_chunk_is_a_plain_error(
    on: Stage, dialect: Dialect
) -> None:
    on.stub.events = nothing
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=True)
    assert_error(dialect, answer, 502, "truncated_stream")
    await assert_recorded(on, claims, "truncated_stream")


@every_protocol
async def test_a_whole_answer_where_a_stream_was_asked_for(on: Stage, dialect: Dialect) -> None:
    """Servers that cannot stream answer whole; the caller gets what it can parse, or an error."""
    on.stub.fail = lambda body: Response(
        json.dumps(_whole(on.stub, dialect, body)), media_type="application/json"
    )
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=True)
    assert answer.status_code == 200
    assert dialect.said(answer.json()) == on.stub.reply


def _whole(stub: VllmStub, dialect: Dialect, body: Json) -> Json:
    return vllm_text.whole(stub, body) if dialect is COMPLETIONS else stub.whole(body)
