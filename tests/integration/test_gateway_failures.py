"""When something is wrong: bad callers, bad replicas, hang-ups, and a log that does not answer."""

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from gateway_harness import (
    Gateway,
    hold_acknowledgements,
    log_from_now,
    refuse_to_publish,
    running_gateway,
)
from openai.types.chat import ChatCompletionChunk
from starlette.responses import PlainTextResponse, Response
from vllm_stub import FIRST_ID, VllmStub, error, eventually, serving, sse

from leyden_platform.messaging import PublishFailed
from leyden_platform.settings import KafkaSettings
from leyden_schemas import CompletionStatus

pytestmark = pytest.mark.kafka

HELLO: Any = [{"role": "user", "content": "3 * 4?"}]
LIMIT = 64 * 1024


@pytest.fixture
def policy() -> str:
    return f"calculator-{uuid4().hex[:8]}"


@pytest.fixture
async def stub(policy: str) -> AsyncIterator[VllmStub]:
    async with serving(VllmStub(models={f"{policy}@1"})) as replica:
        yield replica


@pytest.fixture
async def gateway(kafka: KafkaSettings, stub: VllmStub, policy: str) -> AsyncIterator[Gateway]:
    limits = {"max_body_bytes": LIMIT, "stall_timeout_s": 0.5, "caller_stall_timeout_s": 0.5}
    async with running_gateway(kafka, policy, stub.url, record_timeout_s=2.0, **limits) as running:
        await running.publish_policy(versions=[1], serving=1)
        yield running


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an OpenAI error object."""
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return answer.status_code, body["code"]


async def collect(stream: AsyncIterator[ChatCompletionChunk], into: list[ChatCompletionChunk]) -> None:
    """Read a stream to its end, or until it raises."""
    async for chunk in stream:
        into.append(chunk)  # noqa: PERF401 - what was read before it raises counts


# Callers


async def test_tokens_are_required_and_checked(gateway: Gateway, stub: VllmStub) -> None:
    claims, other = gateway.claims(), gateway.claims()
    body = {"messages": HELLO}
    bearer = {"Authorization": f"Bearer {gateway.token(other)}"}
    expired = {"Authorization": f"Bearer {gateway.token(claims, ttl_s=-60)}"}
    forged = {"Authorization": f"Bearer {gateway.token(claims)[:-4]}AAAA"}
    attempt = {"Authorization": f"Bearer {gateway.token(claims.model_copy(update={'attempt': 9}))}"}
    assert error_of(await gateway.post(None, body)) == (401, "missing_token")
    assert error_of(await gateway.post(claims, body, headers=expired)) == (401, "invalid_token")
    assert error_of(await gateway.post(claims, body, headers=forged)) == (401, "invalid_token")
    assert error_of(await gateway.post(claims, body, headers=bearer)) == (403, "wrong_rollout")
    assert error_of(await gateway.post(claims, body, headers=attempt)) == (403, "wrong_rollout")
    assert not stub.requests
    assert not await gateway.log_now(claims.rollout_id)


async def test_the_client_library_understands_a_refused_token(gateway: Gateway) -> None:
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="a.forged.token", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="not a valid rollout token"):
        await client.models.list()


@pytest.mark.parametrize(
    "content", [b"not json", b"[1]", b'{"a": NaN}', b'{"a": "\xff\xfe"}', b"", b"[" * 5000]
)
async def test_bodies_that_are_not_requests(gateway: Gateway, stub: VllmStub, content: bytes) -> None:
    claims = gateway.claims()
    assert error_of(await gateway.post(claims, content=content)) == (400, "invalid_request")
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, "invalid_request")
    assert not stub.requests


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(b'{"messages": []}', mtime=0)),
        ("GZIP", b"{}"),
        ("br", b"{}"),
        ("identity, gzip", b"{}"),
    ],
    ids=["gzip", "upper case", "brotli", "twice"],
)
async def test_a_compressed_body_is_refused_by_its_encoding(
    gateway: Gateway, stub: VllmStub, encoding: str, content: bytes
) -> None:
    claims = gateway.claims()
    answer = await gateway.post(claims, content=content, headers={"content-encoding": encoding})
    assert error_of(answer) == (415, "unsupported_encoding")
    assert f"{encoding.lower()!r}" in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "identity"
    assert (await gateway.completions(claims.rollout_id))[0].untrainable == "unsupported_encoding"
    assert not stub.requests


async def test_a_body_may_say_that_it_is_not_encoded(gateway: Gateway) -> None:
    headers = {"content-encoding": "identity"}
    assert (await gateway.post(gateway.claims(), {"messages": HELLO}, headers=headers)).status_code == 200


async def chunked(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1024):
        yield b" " * 1024


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large(gateway: Gateway, *, announced: bool) -> None:
    claims = gateway.claims()
    content = b" " * (8 * 1024 * 1024) if announced else chunked(LIMIT * 2)
    answer = await gateway.post(claims, content=content)
    assert error_of(answer) == (413, "request_too_large")
    (record,) = await gateway.completions(claims.rollout_id)
    assert record.untrainable == "request_too_large"


async def test_ten_thousand_messages_pass(gateway: Gateway, stub: VllmStub) -> None:
    messages = [{"role": "user"}] * 3000
    assert (await gateway.post(gateway.claims(), {"messages": messages})).status_code == 200
    assert stub.requests[0]["messages"] == messages


async def test_a_policy_nobody_published(gateway: Gateway) -> None:
    claims = gateway.claims("#canary")
    answer = await gateway.post(claims, {"messages": HELLO})
    assert error_of(answer) == (404, "model_not_found")
    assert "it has: serving" in answer.json()["error"]["message"]
    assert (await gateway.completions(claims.rollout_id))[0].untrainable == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/rollouts/7/attempts/1/v1/chat/completions", 404, "not_found"),
    ],
)
async def test_other_routes(gateway: Gateway, method: str, path: str, status: int, code: str) -> None:
    async with httpx.AsyncClient() as client:
        assert error_of(await client.request(method, gateway.url + path)) == (status, code)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/chat/completions", "POST"), ("/v1/feedback", "POST"), ("/v1/models", "GET, HEAD")],
)
async def test_another_method_is_told_which_to_use(gateway: Gateway, path: str, allowed: str) -> None:
    async with httpx.AsyncClient() as client:
        for method in ("OPTIONS", "PUT", "DELETE"):
            answer = await client.request(method, gateway.url + path)
            assert error_of(answer) == (405, "method_not_allowed")
            assert answer.headers["allow"] == allowed
            assert allowed.split(", ")[0] in answer.json()["error"]["message"]


async def test_the_list_of_models_has_a_head(gateway: Gateway) -> None:
    claims = gateway.claims()
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {gateway.token(claims)}"}) as client:
        whole, head = [await client.request(m, f"{gateway.url}/v1/models") for m in ("GET", "HEAD")]
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))


# Callers who leave


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_hangs_up_leaves_a_cancelled_record(
    gateway: Gateway, stub: VllmStub, *, stream: bool
) -> None:
    stub.gate.clear()
    claims = gateway.claims()
    calling = asyncio.create_task(gateway.post(claims, {"messages": HELLO, "stream": stream}))
    await asyncio.wait_for(stub.arrived.wait(), 5)
    if stream:
        await eventually(lambda: gateway.metric("leyden_gateway_first_token_seconds_count") > 0)
    calling.cancel()
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable, record.http_status) == (
        CompletionStatus.CANCELLED,
        "cancelled",
        499,
    )
    await asyncio.wait_for(stub.hung_up.wait(), 5)
    assert record.version == 1
    stub.gate.set()


async def test_what_was_sampled_before_the_hang_up_is_recorded(gateway: Gateway, stub: VllmStub) -> None:
    stub.gate.clear()
    claims = gateway.claims()
    stream = await gateway.client(claims).chat.completions.create(model="m", messages=HELLO, stream=True)
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if text == stub.reply:
            break
    await stream.close()
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable) == (CompletionStatus.CANCELLED, "cancelled")
    assert record.token_ids == [FIRST_ID + i for i in range(4)]
    assert record.response is not None
    assert record.response["choices"][0]["message"]["content"] == stub.reply
    await asyncio.wait_for(stub.hung_up.wait(), 5)
    assert gateway.metric("leyden_gateway_in_flight") == 0


async def test_a_caller_who_never_reads_is_given_up(gateway: Gateway, stub: VllmStub) -> None:
    async def endless(body: dict[str, Any]) -> AsyncIterator[bytes]:
        while True:
            yield sse(stub.chunk(body, 0, {"content": "x" * 100_000}, None))
            await asyncio.sleep(0)

    stub.events = endless
    claims = gateway.claims()
    body = json.dumps({"messages": HELLO, "stream": True}).encode()
    target = httpx.URL(gateway.base_url(claims))
    head = (
        f"POST {target.path}/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: Bearer {gateway.token(claims)}\r\n\r\n"
    )
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((target.host, target.port))
        caller.sendall(head.encode() + body)
        (record,) = await gateway.completions(claims.rollout_id)
    assert record.status is CompletionStatus.CANCELLED
    assert record.error is not None
    assert "read nothing" in record.error
    await asyncio.wait_for(stub.hung_up.wait(), 5)


# Replicas


async def test_errors_of_a_replica_keep_status_and_body(gateway: Gateway, stub: VllmStub) -> None:
    stub.fail = lambda _body: error(422, "n must be 1", headers={"retry-after": "7"})
    claims = gateway.claims()
    answer = await gateway.post(claims, {"messages": HELLO})
    expected = error(422, "n must be 1")
    assert (answer.status_code, answer.content) == (422, expected.body)
    assert answer.headers["retry-after"] == "7"
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.http_status, record.error, record.untrainable) == (422, "n must be 1", "upstream_error")
    assert len(stub.requests) == 1


async def test_what_clients_retry_by_is_passed_on(gateway: Gateway, stub: VllmStub) -> None:
    told = {"retry-after": "0", "retry-after-ms": "40", "x-should-retry": "false"}
    stub.fail = lambda _body: error(429, "slow down", headers=told)
    answer = await gateway.post(gateway.claims(), {"model": "m", "messages": HELLO})
    assert answer.status_code == 429
    assert {name: answer.headers[name] for name in told} == told


@pytest.mark.parametrize("status", [201, 204, 302, 307])
async def test_an_answer_that_is_neither_a_completion_nor_an_error(
    gateway: Gateway, stub: VllmStub, status: int
) -> None:
    stub.fail = lambda body: Response(json.dumps(stub.whole(body)) if status == 201 else "", status)
    claims = gateway.claims()
    answer = await gateway.post(claims, {"model": "m", "messages": HELLO})
    assert error_of(answer) == (502, "malformed_answer")
    assert f"answered {status}" in answer.json()["error"]["message"]
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, "malformed_answer")
    await gateway.rest()


async def test_a_replica_that_stays_unavailable_is_quoted(
    kafka: KafkaSettings, stub: VllmStub, policy: str
) -> None:
    stub.fail = lambda _body: error(503, "warming up", "ServiceUnavailable")
    async with running_gateway(kafka, policy, stub.url, upstream_attempts=2) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        answer = await gateway.post(gateway.claims(), {"messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "warming up")
        assert len(stub.requests) == 2


BAD_ANSWERS = {
    "truncated JSON": (b'{"choices": [{"ind', "malformed_answer"),
    "not JSON": (b"<html>", "malformed_answer"),
    "not an object": (b"[]", "malformed_answer"),
    "invalid UTF-8": (b'{"choices": [{"message": {"content": "\xff"}}]}', "malformed_answer"),
    "no choices": (b"{}", "malformed_answer"),
    "an error with status 200": (b'{"error": {"message": "oom"}}', "upstream_error"),
}


@pytest.mark.parametrize("what", BAD_ANSWERS)
async def test_whole_answers_that_are_broken(gateway: Gateway, stub: VllmStub, what: str) -> None:
    content, reason = BAD_ANSWERS[what]
    stub.fail = lambda _body: Response(content, media_type="application/json")
    claims = gateway.claims()
    assert error_of(await gateway.post(claims, {"messages": HELLO})) == (502, reason)
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.http_status, record.untrainable, record.version) == (502, reason, 1)


async def test_a_replica_that_closes_in_the_middle_of_a_whole_answer(
    gateway: Gateway, stub: VllmStub
) -> None:
    stub.fail = lambda _body: PlainTextResponse("{", headers={"content-length": "100"})
    claims = gateway.claims()
    assert error_of(await gateway.post(claims, {"messages": HELLO})) == (502, "truncated_stream")


async def test_a_replica_that_stalls_before_its_answer(gateway: Gateway, stub: VllmStub) -> None:
    stub.gate.clear()
    claims = gateway.claims()
    assert error_of(await gateway.post(claims, {"messages": HELLO})) == (504, "upstream_timeout")
    await asyncio.wait_for(stub.hung_up.wait(), 5)
    assert (await gateway.completions(claims.rollout_id))[0].untrainable == "upstream_timeout"
    stub.gate.set()


async def broken_stream(stub: VllmStub, body: dict[str, Any], how: str) -> AsyncIterator[bytes]:
    """Two good chunks, then trouble."""
    first = stub.chunk(body, 0, {"role": "assistant", "content": "so "}, None)
    yield sse(first | {"prompt_token_ids": [1, 2]})
    piece: dict[str, Any] = stub.chunk(body, 0, {"content": "far"}, None)
    piece["choices"][0] |= {"token_ids": [5], "logprobs": {"content": [{"logprob": -0.5}]}}
    yield sse(piece)
    match how:
        case "not JSON":
            yield b"data: {oops\n\n"
        case "invalid UTF-8":
            yield b'data: {"choices": "\xff"}\n\n'
        case "half an event":
            yield b'data: {"choices": [{"index": 0,'
        case "reports an error":
            yield b'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n'
        case "stalls":
            await asyncio.Event().wait()
        case "raises":
            raise ConnectionError


BROKEN_STREAMS = {
    "ends early": "truncated_stream",
    "half an event": "malformed_answer",
    "not JSON": "malformed_answer",
    "invalid UTF-8": "malformed_answer",
    "reports an error": "upstream_error",
    "stalls": "upstream_timeout",
    "raises": "truncated_stream",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", BROKEN_STREAMS)
async def test_streams_that_break(gateway: Gateway, stub: VllmStub, how: str) -> None:
    stub.events = lambda body: broken_stream(stub, body, how)
    claims = gateway.claims()
    stream = await gateway.client(claims).chat.completions.create(model="m", messages=HELLO, stream=True)
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as caught:
        await collect(stream, seen)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == "so far"
    assert str(caught.value)
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, BROKEN_STREAMS[how])
    assert (record.token_ids, record.logprobs, record.finish_reason) == ([5], [-0.5], None)
    assert gateway.metric("leyden_gateway_in_flight") == 0


@pytest.mark.parametrize("n", [1, 2])
async def test_an_answer_that_has_finished_is_not_waited_for(
    kafka: KafkaSettings, stub: VllmStub, policy: str, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """The replica sends its finish reasons, then neither ``[DONE]`` nor the end of its message."""
    monkeypatch.setattr("leyden_gateway.exchange.exchange._REMAINDER_S", 0.2)

    async def lingering(body: dict[str, Any]) -> AsyncIterator[bytes]:
        for index in range(n):
            yield sse(stub.chunk(body, index, {"role": "assistant", "content": "12"}, None))
            yield sse(stub.chunk(body, index, {}, "stop"))
        while True:
            yield b": keep-alive\n\n"
            await asyncio.sleep(0.05)

    stub.events = lingering
    async with running_gateway(kafka, policy, stub.url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        answer = await asyncio.wait_for(gateway.post(claims, {"messages": HELLO, "stream": True, "n": n}), 30)
        assert answer.status_code == 200
        assert answer.text.count('"finish_reason":"stop"') == n
        assert answer.text.endswith("\n\ndata: [DONE]\n\n"), "clients wait for it"
        records = await gateway.completions(claims.rollout_id, count=n)
        assert {(record.status, record.finish_reason) for record in records} == {
            (CompletionStatus.OK, "stop")
        }
        await asyncio.wait_for(stub.hung_up.wait(), 5)
        assert gateway.metric("leyden_gateway_in_flight") == 0


async def test_a_stream_that_breaks_before_its_first_chunk_is_a_plain_error(
    gateway: Gateway, stub: VllmStub
) -> None:
    async def nothing(_body: dict[str, Any]) -> AsyncIterator[bytes]:
        empty: list[bytes] = []
        for piece in empty:
            yield piece

    stub.events = nothing
    answer = await gateway.post(gateway.claims(), {"messages": HELLO, "stream": True})
    assert error_of(answer) == (502, "truncated_stream")


@pytest.mark.parametrize(
    ("token_ids", "extra", "reason"), [(False, 0, "no_token_ids"), (True, 2, "logprobs_mismatch")]
)
async def test_answers_that_cannot_be_trained_on_still_reach_the_caller(
    gateway: Gateway, stub: VllmStub, *, token_ids: bool, extra: int, reason: str
) -> None:
    stub.token_ids, stub.extra_logprobs = token_ids, extra
    claims = gateway.claims()
    answer = await gateway.client(claims).chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == stub.reply
    (record,) = await gateway.completions(claims.rollout_id)
    assert (record.status, record.untrainable, record.logprobs) == (CompletionStatus.OK, reason, [])


# The log


@pytest.fixture
def silent_log(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Completions are published only once the event is set; other messages at once."""
    return hold_acknowledgements(monkeypatch)


async def test_no_end_without_an_acknowledgement(gateway: Gateway, silent_log: asyncio.Event) -> None:
    claims = gateway.claims()
    stream = await gateway.client(claims).chat.completions.create(model="m", messages=HELLO, stream=True)
    seen: list[ChatCompletionChunk] = []
    reading = asyncio.create_task(collect(stream, seen))
    whole = asyncio.create_task(gateway.post(gateway.claims(), {"messages": HELLO}))
    await eventually(lambda: len(seen) == 5)
    done, _ = await asyncio.wait([reading, whole], timeout=0.3)
    assert not done
    assert [chunk.choices[0].finish_reason for chunk in seen] == [None] * 5
    silent_log.set()
    await reading
    assert seen[-1].choices[0].finish_reason == "stop"
    assert (await whole).status_code == 200


@pytest.mark.usefixtures("silent_log")
async def test_a_log_that_does_not_answer_fails_the_call(gateway: Gateway) -> None:
    before = gateway.metric("leyden_gateway_record_failed_total", reason="recording_unavailable")
    answer = await gateway.post(gateway.claims(), {"messages": HELLO})
    assert error_of(answer) == (503, "recording_unavailable")
    stream = await gateway.client(gateway.claims()).chat.completions.create(
        model="m", messages=HELLO, stream=True
    )
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError, match="could not be recorded"):
        await collect(stream, seen)
    assert [choice.finish_reason for chunk in seen for choice in chunk.choices] == [None] * 5
    after = gateway.metric("leyden_gateway_record_failed_total", reason="recording_unavailable")
    assert after - before == 2


async def test_a_broker_that_refuses_is_named(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_publish(monkeypatch, PublishFailed("not enough replicas"))
    answer = await gateway.post(gateway.claims(), {"messages": HELLO})
    assert error_of(answer) == (503, "recording_unavailable")
    assert "not enough replicas" in answer.json()["error"]["message"]


async def test_a_record_larger_than_the_log_takes(kafka: KafkaSettings, stub: VllmStub, policy: str) -> None:
    small = kafka.model_copy(update={"max_message_bytes": 20_000})
    async with running_gateway(small, policy, stub.url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        answer = await gateway.post(claims, {"messages": [{"role": "user", "content": "x" * 30_000}]})
        assert error_of(answer) == (413, "record_too_large")
        (record,) = await gateway.completions(claims.rollout_id)
        assert (record.untrainable, record.request) == ("record_too_large", {})


async def test_a_drained_gateway_finishes_its_calls(
    kafka: KafkaSettings, stub: VllmStub, policy: str
) -> None:
    stub.gate.clear()
    async with running_gateway(kafka, policy, stub.url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        calling = asyncio.create_task(gateway.post(gateway.claims(), {"messages": HELLO}))
        await asyncio.wait_for(stub.arrived.wait(), 5)
        asyncio.get_running_loop().call_later(0.2, stub.gate.set)
    assert (await calling).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_outlives_the_drain_is_told_and_recorded(
    kafka: KafkaSettings, stub: VllmStub, policy: str, *, stream: bool
) -> None:
    """The caller's client may try again elsewhere; what was sampled until then is on the log."""
    stub.gate.clear()
    async with AsyncExitStack() as open_until:
        log = await log_from_now(kafka, open_until)
        async with running_gateway(kafka, policy, stub.url, drain_timeout_s=2) as gateway:
            await gateway.publish_policy(versions=[1], serving=1)
            claims = gateway.claims()
            calling = asyncio.create_task(gateway.post(claims, {"messages": HELLO, "stream": stream}))
            await asyncio.wait_for(stub.arrived.wait(), 5)
            if stream:
                await eventually(
                    lambda: gateway.metric("leyden_gateway_first_token_seconds_count", policy=policy) > 0
                )
        answer = await calling
        if stream:
            assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "gateway_stopping"
        else:
            assert error_of(answer) == (503, "gateway_stopping")
        await log.catch_up()
        (record,) = [raw.message() for raw in log.of(claims.rollout_id)]
    assert (record.status, record.untrainable) == (CompletionStatus.ERROR, "gateway_stopping")
    assert bool(record.token_ids) == stream
