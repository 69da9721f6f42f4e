"""Calls that go well, and routing: a real broker, a stub of vLLM, the real OpenAI client."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from gateway_harness import CALCULATOR, Gateway, running_gateway
from vllm_stub import FIRST_ID, PROMPT_IDS, VllmStub, error, eventually, serving

from leyden_platform.settings import KafkaSettings
from leyden_schemas import CompletionStatus, Split, cause_id

pytestmark = pytest.mark.kafka

HELLO: Any = [{"role": "user", "content": "3 * 4?"}]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "calculator", "arguments": '{"a":3,"op":"*","b":4}'},
}


@pytest.fixture
def policy() -> str:
    return f"calculator-{uuid4().hex[:8]}"


@pytest.fixture
async def stub(policy: str) -> AsyncIterator[VllmStub]:
    async with serving(VllmStub(models={f"{policy}@1"})) as replica:
        yield replica


@pytest.fixture
async def gateway(kafka: KafkaSettings, stub: VllmStub, policy: str) -> AsyncIterator[Gateway]:
    async with running_gateway(kafka, policy, stub.url) as running:
        await running.publish_policy(versions=[1], serving=1)
        yield running


async def test_a_whole_completion_is_recorded_as_sampled(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims()
    raw = await gateway.client(claims).chat.completions.with_raw_response.create(
        model="gpt-4o", messages=HELLO, temperature=0.3
    )
    assert raw.parse().choices[0].message.content == stub.reply
    (record,) = await gateway.completions(claims.rollout_id)
    assert raw.headers["x-leyden-completion-id"] == str(record.completion_id)
    assert raw.headers["x-leyden-model"] == record.model == f"{gateway.policy}@1"
    assert raw.headers["x-leyden-sampling"] == "forced"
    assert raw.headers["x-leyden-overridden"] == "temperature"
    assert record.prompt_token_ids == PROMPT_IDS
    assert record.token_ids == [FIRST_ID + i for i in range(5)]
    assert record.logprobs == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5])
    assert (record.finish_reason, record.status, record.untrainable) == ("stop", CompletionStatus.OK, None)
    assert record.request == {"model": "gpt-4o", "messages": HELLO, "temperature": 0.3}
    assert record.sampling.overridden == {"temperature": 0.3}
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (4, 5)
    assert (record.replica, record.tenant, record.run) == (stub.url, claims.tenant, claims.run)
    assert 0 < record.timings.total_s < 10
    assert stub.requests[0]["temperature"] == claims.sampling.temperature
    assert stub.requests[0]["model"] == f"{gateway.policy}@1"


async def test_what_the_caller_did_not_ask_for_is_removed(gateway: Gateway) -> None:
    answer = await gateway.post(gateway.claims(), {"messages": HELLO})
    body = answer.json()
    assert body["choices"][0]["logprobs"] is None
    assert "token_ids" not in body["choices"][0]
    assert "prompt_token_ids" not in body


async def test_what_the_caller_asked_for_stays_as_the_replica_wrote_it(
    gateway: Gateway, stub: VllmStub
) -> None:
    asked = {"messages": HELLO, "logprobs": True, "return_token_ids": True}
    answer = await gateway.post(gateway.claims(), asked)
    direct = httpx.AsyncClient(base_url=stub.url)
    async with direct:
        expected = await direct.post("/v1/chat/completions", json={**asked, "model": f"{gateway.policy}@1"})
    assert answer.content == expected.content


async def test_a_stream_is_recorded_before_its_end_is_seen(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims()
    stream = await gateway.client(claims).chat.completions.create(model="m", messages=HELLO, stream=True)
    text = ""
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].finish_reason:
            (record,) = await gateway.completions(claims.rollout_id)
            break
        text += chunk.choices[0].delta.content or ""
    await stream.close()
    assert text == stub.reply
    assert record.streamed
    assert record.token_ids == [FIRST_ID + i for i in range(5)]
    assert record.logprobs == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5])
    assert record.timings.first_token_s is not None
    assert record.timings.first_token_s <= record.timings.total_s
    assert record.response is not None
    assert record.response["choices"][0]["message"] == {"role": "assistant", "content": stub.reply}
    assert record.untrainable is None


async def test_whole_answers_wait_for_the_acknowledgement_too(gateway: Gateway) -> None:
    for _ in range(5):
        claims = gateway.claims()
        await gateway.post(claims, {"messages": HELLO})
        assert len(await gateway.log_now(claims.rollout_id)) == 1


async def test_text_flows_while_the_end_is_awaited(gateway: Gateway, stub: VllmStub) -> None:
    stub.gate.clear()
    stream = await gateway.client(gateway.claims()).chat.completions.create(
        model="m", messages=HELLO, stream=True
    )
    text = ""
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        if text == stub.reply:
            stub.gate.set()
    assert stub.gate.is_set()


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
async def test_a_stream_holds_what_was_asked_for(gateway: Gateway, options: dict[str, bool] | None) -> None:
    body = {"messages": HELLO, "stream": True, **({"stream_options": options} if options else {})}
    answer = await gateway.post(gateway.claims(), body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert not [c for c in chunks if "prompt_token_ids" in c]
    assert not [c for c in chunks for choice in c["choices"] if "token_ids" in choice or choice["logprobs"]]
    assert len([c for c in chunks if c.get("usage")]) == bool(options)


async def test_a_stream_that_needs_no_change_keeps_its_bytes(gateway: Gateway, stub: VllmStub) -> None:
    asked = {
        "messages": HELLO,
        "stream": True,
        "logprobs": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    answer = await gateway.post(gateway.claims(), asked)
    async with httpx.AsyncClient(base_url=stub.url) as direct:
        expected = await direct.post("/v1/chat/completions", json={**asked, "model": f"{gateway.policy}@1"})
    assert answer.content == expected.content


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(gateway: Gateway, stub: VllmStub, *, stream: bool) -> None:
    stub.tool_calls = [CALL, {**CALL, "id": "call_2"}]
    claims = gateway.claims()
    completions = gateway.client(claims).chat.completions
    if stream:
        async with completions.stream(model="m", messages=HELLO, tools=[CALCULATOR]) as events:
            completion: Any = await events.get_final_completion()
    else:
        completion = await completions.create(
            model="m", messages=HELLO, tools=[CALCULATOR], parallel_tool_calls=True
        )
    calls = completion.choices[0].message.tool_calls
    assert [(call.id, call.function.arguments) for call in calls] == [
        ("call_1", CALL["function"]["arguments"]),  # type: ignore[index]
        ("call_2", CALL["function"]["arguments"]),  # type: ignore[index]
    ]
    (record,) = await gateway.completions(claims.rollout_id)
    assert record.finish_reason == "tool_calls"
    assert record.response is not None
    assert record.response["choices"][0]["message"]["tool_calls"] == stub.tool_calls
    assert record.request["tools"] == stub.requests[0]["tools"] == [CALCULATOR]
    assert record.untrainable is None


@pytest.mark.parametrize("stream", [False, True])
async def test_each_alternative_is_a_record(gateway: Gateway, *, stream: bool) -> None:
    claims = gateway.claims()
    answer = await gateway.post(claims, {"messages": HELLO, "n": 3, "stream": stream})
    records = await gateway.completions(claims.rollout_id)
    assert len({record.completion_id for record in records}) == 3
    assert answer.headers["x-leyden-completion-id"] == str(records[0].completion_id)
    for record in records:
        assert (record.untrainable, len(record.token_ids), len(record.logprobs)) == (None, 5, 5)
        assert record.response is not None
        assert len(record.response["choices"]) == 1


async def test_attribution_by_path_and_agent(gateway: Gateway) -> None:
    claims = gateway.claims()
    await gateway.client(claims, agent="critic").chat.completions.create(model="m", messages=HELLO)
    await gateway.client(claims, path=False).chat.completions.create(model="m", messages=HELLO)
    records = await gateway.completions(claims.rollout_id, count=2)
    assert [record.agent for record in records] == ["critic", "main"]
    assert {record.attempt for record in records} == {claims.attempt}


async def test_evaluation_leaves_sampling_to_the_caller(gateway: Gateway, stub: VllmStub) -> None:
    answer = await gateway.post(
        gateway.claims(split=Split.EVAL), {"messages": HELLO, "temperature": 0.0, "top_p": 0.5}
    )
    assert "x-leyden-sampling" not in answer.headers
    assert (stub.requests[0]["temperature"], stub.requests[0]["top_p"]) == (0.0, 0.5)


async def test_models_are_listed_under_both_prefixes(gateway: Gateway) -> None:
    claims = gateway.claims()
    expected = [gateway.policy + suffix for suffix in ("", "#serving", "@1")]
    for client in (gateway.client(claims), gateway.client(claims, path=False)):
        assert [model.id async for model in client.models.list()] == expected


async def test_anonymous_calls_are_sessions_of_their_own(
    kafka: KafkaSettings, stub: VllmStub, policy: str
) -> None:
    async with running_gateway(kafka, policy, stub.url, allow_anonymous=True) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        session = f"session-{uuid4()}"
        answer = await gateway.post(
            None, {"model": policy, "messages": HELLO}, headers={"x-leyden-session": session}
        )
        assert answer.status_code == 200
        (record,) = await gateway.completions(cause_id("session", "default", "default", session))
        assert (record.policy, record.version, record.untrainable) == (policy, 1, None)
        unknown = await gateway.post(None, {"model": "gpt-4o", "messages": HELLO})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "model_not_found"


async def test_the_trace_continues_to_the_replica_and_the_log(gateway: Gateway, stub: VllmStub) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    claims = gateway.claims(traceparent=f"00-{trace}-b7ad6b7169203331-01")
    await gateway.post(claims, {"messages": HELLO})
    assert trace in stub.headers[0]["traceparent"]
    (raw,) = await gateway.log_now(claims.rollout_id)
    assert trace in raw.headers["traceparent"]
    other = "1af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{other}-b7ad6b7169203331-01"}
    await gateway.post(claims, {"messages": HELLO}, headers=headers)
    assert other in stub.headers[1]["traceparent"]


async def test_a_call_is_parked_until_its_version_is_served(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims("@2")
    await gateway.publish_policy(versions=[2])
    calling = asyncio.create_task(gateway.post(claims, {"messages": HELLO}))
    await eventually(lambda: gateway.metric("leyden_gateway_parked") == 1)
    stub.models.add(f"{gateway.policy}@2")
    answer = await calling
    assert answer.headers["x-leyden-model"] == f"{gateway.policy}@2"


async def test_an_alias_is_followed_and_falls_back_while_the_new_version_loads(
    gateway: Gateway, stub: VllmStub
) -> None:
    claims = gateway.claims()
    await gateway.publish_policy(versions=[2], serving=2)
    answer = await gateway.post(claims, {"messages": HELLO})
    assert answer.headers["x-leyden-model"] == f"{gateway.policy}@1"
    stub.models.add(f"{gateway.policy}@2")
    await eventually(lambda: gateway.metric("leyden_gateway_replica_models", replica=stub.url) == 2)
    answer = await gateway.post(claims, {"messages": HELLO})
    assert answer.headers["x-leyden-model"] == f"{gateway.policy}@2"


async def test_parking_is_bounded(kafka: KafkaSettings, stub: VllmStub, policy: str) -> None:
    async with running_gateway(kafka, policy, stub.url, park_timeout_s=0.3) as gateway:
        await gateway.publish_policy(versions=[1, 7], serving=1)
        claims = gateway.claims("@7")
        answer = await gateway.post(claims, {"messages": HELLO})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_unavailable"
        assert f"1 of 1 replicas answer, they serve {policy}@1" in answer.json()["error"]["message"]
        (record,) = await gateway.completions(claims.rollout_id)
        assert (record.untrainable, record.http_status) == ("model_unavailable", 503)


async def test_a_version_that_was_dropped_is_resolved_again(gateway: Gateway, stub: VllmStub) -> None:
    await gateway.publish_policy(versions=[2], serving=2)
    stub.models.add(f"{gateway.policy}@2")
    await eventually(lambda: gateway.metric("leyden_gateway_replica_models", replica=stub.url) == 2)
    stub.models.discard(f"{gateway.policy}@2")
    answer = await gateway.post(gateway.claims(), {"messages": HELLO})
    assert answer.headers["x-leyden-model"] == f"{gateway.policy}@1"


async def test_another_replica_takes_over(kafka: KafkaSettings, stub: VllmStub, policy: str) -> None:
    async with (
        serving(VllmStub(models=set(stub.models))) as other,
        running_gateway(kafka, policy, stub.url, other.url) as gateway,
    ):
        await gateway.publish_policy(versions=[1], serving=1)
        claims = [gateway.claims() for _ in range(12)]
        stub.fail = lambda _body: error(503, "warming up", "ServiceUnavailable")
        answers = [await gateway.post(c, {"messages": HELLO}) for c in claims]
        assert {answer.status_code for answer in answers} == {200}
        assert stub.requests, "some of the rollouts hash to the replica that refuses"
        records = [(await gateway.completions(c.rollout_id))[0] for c in claims]
        assert {record.replica for record in records} == {other.url}


async def test_a_lone_replica_that_restarts_is_waited_for(kafka: KafkaSettings, policy: str) -> None:
    models = {f"{policy}@1"}
    async with serving(VllmStub(models)) as first:
        gateway_context = running_gateway(kafka, policy, first.url)
        gateway = await gateway_context.__aenter__()
        await gateway.publish_policy(versions=[1], serving=1)
    try:
        calling = asyncio.create_task(gateway.post(gateway.claims(), {"messages": HELLO}))
        await eventually(lambda: gateway.metric("leyden_gateway_parked") == 1)
        async with serving(VllmStub(models), port=int(first.url.rsplit(":", 1)[1])):
            assert (await calling).status_code == 200
    finally:
        await gateway_context.__aexit__(None, None, None)


async def test_concurrent_calls_are_each_recorded_once(gateway: Gateway) -> None:
    claims = [gateway.claims() for _ in range(64)]
    clients = [gateway.client(c) for c in claims]
    await asyncio.gather(*(c.chat.completions.create(model="m", messages=HELLO) for c in clients))
    recorded = [record.key for record in await gateway.log_now()]
    assert [recorded.count(str(claim.rollout_id).encode()) for claim in claims] == [1] * 64


async def test_the_client_library_reports_our_errors(gateway: Gateway) -> None:
    claims = gateway.claims(max_completions=1)
    client = gateway.client(claims)
    await client.chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(openai.RateLimitError, match="1 completions") as caught:
        await client.with_options(max_retries=5).chat.completions.create(model="m", messages=HELLO)
    assert caught.value.code == "max_completions_reached"
    assert len(await gateway.log_now(claims.rollout_id)) == 1


async def test_constrained_answers_pass_and_are_not_trained_on(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims()
    client = gateway.client(claims)
    schema = {"type": "object"}
    for extra in ({"guided_json": schema}, {}):
        await client.chat.completions.create(model="m", messages=HELLO, extra_body=extra)
    assert stub.requests[0]["guided_json"] == schema
    constrained, free = await gateway.completions(claims.rollout_id, count=2)
    assert (constrained.untrainable, free.untrainable) == ("guided_decoding", None)
    assert constrained.token_ids == free.token_ids


async def test_alternatives_are_charged_to_the_budget(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims(max_completions=3)
    client = gateway.client(claims)
    with pytest.raises(openai.RateLimitError, match="50 completions, and this attempt has 3 of its 3 left"):
        await client.chat.completions.create(model="m", messages=HELLO, n=50)
    with pytest.raises(openai.RateLimitError, match="4 alternatives"):
        await client.completions.create(model="m", prompt=["a", "b"], n=2)
    assert not stub.requests
    answer = await client.chat.completions.create(model="m", messages=HELLO, n=2)
    assert len(answer.choices) == 2
    with pytest.raises(openai.RateLimitError, match="has 1 of its 3 left"):
        await client.chat.completions.create(model="m", messages=HELLO, n=2)
    await client.chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(openai.RateLimitError, match="has made its 3 completions") as caught:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert caught.value.code == "max_completions_reached"
    assert len(await gateway.log_now(claims.rollout_id)) == 3
    await gateway.rest()


async def test_only_completions_are_charged_to_the_budget(gateway: Gateway, stub: VllmStub) -> None:
    """Not: refused requests, a replica's refusals and its overload, counts of tokens, embeddings."""
    claims = gateway.claims(max_completions=1)
    client = gateway.client(claims)
    for bad in (b"{", b'{"model":"m","messages":[],"n":"2"}'):
        assert (await gateway.post(claims, content=bad)).status_code == 400
    for status in (400, 429):
        stub.fail = lambda _body, status=status: error(status, "no")  # type: ignore[misc]
        with pytest.raises(openai.APIStatusError):
            await client.chat.completions.create(model="m", messages=HELLO)
    stub.reset()
    await client.embeddings.create(model="m", input="hello")
    counted = await client.post("/messages/count_tokens", cast_to=object, body={"messages": HELLO})
    assert counted == {"input_tokens": len(PROMPT_IDS)}
    await client.chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(openai.RateLimitError, match="has made its 1 completions"):
        await client.chat.completions.create(model="m", messages=HELLO)


async def test_alternatives_that_a_replica_failed_are_given_back(gateway: Gateway, stub: VllmStub) -> None:
    claims = gateway.claims(max_completions=4)
    client = gateway.client(claims)
    stub.fail = lambda _body: error(500, "out of memory")
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="m", messages=HELLO, n=4)
    stub.reset()
    answer = await client.chat.completions.create(model="m", messages=HELLO, n=4)
    assert len(answer.choices) == 4
