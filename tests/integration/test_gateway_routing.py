"""Routing through the real gateway and a real broker: replicas that fail, room, canaries, externals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any
from uuid import uuid4

import httpx
import pytest
from gateway_harness import Gateway, running_gateway
from routing_harness import (
    BREAKER,
    CLOSED,
    HELLO,
    OPEN,
    ask,
    ask_all,
    homes,
    last_records,
    move_alias,
)
from starlette.responses import Response
from vllm_stub import VllmStub, error, eventually, serving, sse

from leyden_gateway.exchange import exchange
from leyden_gateway.routing.settings import RoutingSettings
from leyden_platform.settings import KafkaSettings
from leyden_schemas import CompletionStatus

pytestmark = pytest.mark.kafka


@pytest.fixture
def policy() -> str:
    return f"calculator-{uuid4().hex[:8]}"


@pytest.fixture
async def stubs(policy: str) -> AsyncIterator[list[VllmStub]]:
    """Two replicas that serve version 1."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(VllmStub(models={f"{policy}@1"}))) for _ in "ab"]


def refusing(status: int = 503, **headers: str) -> Any:
    """A replica's way to fail."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda _body: error(status, "not now", "ServiceUnavailable", headers=named)


# Replicas that are lost or fail


async def test_a_lost_replica_moves_only_its_own_rollouts(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    async with AsyncExitStack() as stack:
        lost = await stack.enter_async_context(serving(VllmStub(models={f"{policy}@1"})))
        urls = {stub.url for stub in (*stubs, lost)}
        async with running_gateway(kafka, policy, *urls) as gateway:
            await gateway.publish_policy(versions=[1], serving=1)
            rollouts = [gateway.claims() for _ in range(30)]
            before = await homes(gateway, rollouts)
            assert set(before.values()) == urls
            assert await homes(gateway, rollouts) == before, "turns stay where their prefix cache is"
            await stack.aclose()
            after = await homes(gateway, rollouts)
            assert lost.url not in after.values()
            moved = {rollout for rollout in before if after[rollout] != before[rollout]}
            assert moved == {rollout for rollout, url in before.items() if url == lost.url}


async def test_a_failing_replica_is_left_alone(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    failing, healthy = stubs
    failing.fail = refusing()
    routing = RoutingSettings(breaker_failures=2, breaker_open_s=60, breaker_open_max_s=60)
    async with running_gateway(kafka, policy, failing.url, healthy.url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        rollouts = [gateway.claims() for _ in range(16)]
        assert {answer.status_code for answer in await ask_all(gateway, rollouts)} == {200}
        assert gateway.metric(BREAKER, replica=failing.url) == OPEN
        assert gateway.metric(BREAKER, replica=healthy.url) == CLOSED
        assert gateway.metric("leyden_gateway_breaker_opened_total", replica=failing.url) == 1
        assert gateway.metric("leyden_gateway_replica_up", replica=failing.url) == 1, "its health check lies"
        asked = len(failing.requests)
        await ask_all(gateway, rollouts)
        assert len(failing.requests) == asked


async def test_a_replica_that_works_again_is_taken_back(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    failing, healthy = stubs
    failing.fail = refusing()
    routing = RoutingSettings(breaker_failures=2, breaker_open_s=0.2, breaker_open_max_s=0.2)
    async with running_gateway(kafka, policy, failing.url, healthy.url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        rollouts = [gateway.claims() for _ in range(16)]
        assert {answer.status_code for answer in await ask_all(gateway, rollouts)} == {200}
        assert gateway.metric("leyden_gateway_breaker_opened_total", replica=failing.url) > 0
        failing.fail = lambda _body: None
        await eventually(lambda: gateway.metric(BREAKER, replica=failing.url) != OPEN)
        assert failing.url in (await homes(gateway, rollouts)).values()
        assert gateway.metric(BREAKER, replica=failing.url) == CLOSED


async def test_answers_that_break_off_open_the_breaker(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    async def broken(body: dict[str, Any]) -> AsyncIterator[bytes]:
        yield sse(stubs[0].chunk(body, 0, {"content": "so far"}, None))

    stubs[0].events = broken
    routing = RoutingSettings(breaker_failures=2, breaker_open_s=30)
    async with running_gateway(kafka, policy, stubs[0].url, routing=routing, park_timeout_s=0.2) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        for _ in range(2):
            assert "so far" in (await ask(gateway, gateway.claims(), stream=True)).text
        claims = gateway.claims()
        answer = await ask(gateway, claims)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replicas_failing")
        assert f"{stubs[0].url} keeps failing, last: its answer broke off" in answer.text
        assert (await gateway.completions(claims.rollout_id))[0].untrainable == "replicas_failing"


async def test_client_errors_leave_the_breaker_closed(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    stubs[0].fail = refusing(422)
    routing = RoutingSettings(breaker_failures=1)
    async with running_gateway(kafka, policy, stubs[0].url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        rollouts = [gateway.claims() for _ in range(5)]
        assert {answer.status_code for answer in await ask_all(gateway, rollouts)} == {422}
        assert gateway.metric(BREAKER, replica=stubs[0].url) == CLOSED


async def test_an_overloaded_replica_is_spared(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    busy, idle = stubs
    busy.fail = refusing(429, retry_after="30")
    async with running_gateway(kafka, policy, busy.url, idle.url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        rollouts = [gateway.claims() for _ in range(12)]
        for claims in rollouts:
            assert (await ask(gateway, claims)).status_code == 200
        assert len(busy.requests) == 1, "its Retry-After keeps the next calls away"
        idle.fail = refusing(429, retry_after="30")
        answer = await ask(gateway, rollouts[0])
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")


# Room


async def test_a_full_replica_overflows_then_calls_wait_in_turn(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    for stub in stubs:
        stub.gate.clear()
    urls = [stub.url for stub in stubs]
    async with running_gateway(
        kafka, policy, *urls, routing=RoutingSettings(replica_concurrency=2)
    ) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        calls = [asyncio.create_task(ask(gateway, claims)) for _ in range(4)]
        await eventually(lambda: [len(stub.requests) for stub in stubs] == [2, 2])
        assert sum(gateway.metric("leyden_gateway_overflowed_total", replica=url) for url in urls) == 2
        assert [gateway.metric("leyden_gateway_replica_in_flight", replica=url) for url in urls] == [2, 2]
        late = gateway.claims()
        waiting = asyncio.create_task(ask(gateway, late))
        await eventually(lambda: gateway.metric("leyden_gateway_parked") == 1)
        for stub in stubs:
            asyncio.get_running_loop().call_later(0.2, stub.gate.set)
        answers = [*await asyncio.gather(*calls), await waiting]
        assert {answer.status_code for answer in answers} == {200}
        (record,) = await gateway.completions(late.rollout_id)
        assert record.timings.queue_s is not None
        assert 0.15 < record.timings.queue_s < 5
        await eventually(lambda: sum(r.in_flight for r in gateway.replicas.describe()) == 0)


async def test_waiting_for_room_is_bounded(kafka: KafkaSettings, stubs: list[VllmStub], policy: str) -> None:
    stubs[0].gate.clear()
    routing = RoutingSettings(replica_concurrency=1)
    async with running_gateway(kafka, policy, stubs[0].url, routing=routing, park_timeout_s=0.2) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        holding = asyncio.create_task(ask(gateway, gateway.claims()))
        await asyncio.wait_for(stubs[0].arrived.wait(), 5)
        claims = gateway.claims()
        answer = await ask(gateway, claims)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "replicas_busy")
        (record,) = await gateway.completions(claims.rollout_id)
        assert (record.untrainable, record.http_status) == ("replicas_busy", 503)
        stubs[0].gate.set()
        assert (await holding).status_code == 200


async def test_a_caller_who_hangs_up_gives_back_its_room(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    stubs[0].gate.clear()
    routing = RoutingSettings(replica_concurrency=1)
    async with running_gateway(kafka, policy, stubs[0].url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        leaving = [asyncio.create_task(ask(gateway, gateway.claims(), stream=True)) for _ in range(2)]
        await eventually(lambda: gateway.metric("leyden_gateway_parked") == 1)
        for call in leaving:
            call.cancel()
        await asyncio.wait(leaving)
        await eventually(lambda: gateway.replicas.describe()[0].in_flight == 0)
        stubs[0].gate.set()
        assert (await ask(gateway, gateway.claims())).status_code == 200


async def test_a_drained_replica_finishes_its_calls_and_gets_no_more(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    drained, other = stubs
    drained.gate.clear()
    async with running_gateway(kafka, policy, drained.url, other.url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        gateway.replicas.drain(other.url)
        holding = asyncio.create_task(ask(gateway, gateway.claims()))
        await asyncio.wait_for(drained.arrived.wait(), 5)
        gateway.replicas.undrain(other.url)
        gateway.replicas.drain(drained.url)
        rollouts = [gateway.claims() for _ in range(8)]
        assert set((await homes(gateway, rollouts)).values()) == {other.url}
        drained.gate.set()
        assert (await holding).status_code == 200
        gateway.replicas.undrain(drained.url)
        assert len(set((await homes(gateway, [gateway.claims() for _ in range(16)])).values())) == 2


# Following the registry


async def test_a_move_is_followed_within_two_seconds(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    async with running_gateway(kafka, policy, stubs[0].url) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        assert (await ask(gateway, claims)).headers["x-leyden-model"] == f"{policy}@1"
        stubs[0].models.add(f"{policy}@2")
        started = perf_counter()
        await gateway.publish_policy(versions=[2], serving=2)
        while (await ask(gateway, claims)).headers["x-leyden-model"] != f"{policy}@2":
            assert perf_counter() - started < 2
        assert perf_counter() - started < 2


async def test_a_canary_takes_its_share_and_keeps_its_rollouts(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    stubs[1].models = {f"{policy}@2"}
    async with running_gateway(kafka, policy, *(stub.url for stub in stubs)) as gateway:
        await gateway.publish_policy(versions=[1, 2], serving=1)
        await move_alias(gateway, "canary", 2, weight=0.5)
        rollouts = [gateway.claims() for _ in range(60)]
        split = await versions(gateway, rollouts)
        assert 15 <= list(split.values()).count(2) <= 45
        assert await versions(gateway, rollouts) == split
        named = [gateway.claims("#serving") for _ in range(8)]
        assert set((await versions(gateway, named)).values()) == {1}
        await move_alias(gateway, "canary", 2, weight=1.0)
        assert set((await versions(gateway, rollouts)).values()) == {2}
        stubs[1].models.clear()
        await eventually(lambda: gateway.metric("leyden_gateway_replica_models", replica=stubs[1].url) == 0)
        assert set((await versions(gateway, rollouts[:8])).values()) == {1}, "nobody serves the canary"
        stubs[1].models = {f"{policy}@2"}
        await eventually(lambda: gateway.metric("leyden_gateway_replica_models", replica=stubs[1].url) == 1)
        await move_alias(gateway, "canary", 2)
        assert set((await versions(gateway, rollouts[:8])).values()) == {1}, "it has no weight any more"


async def versions(gateway: Gateway, rollouts: list[Any]) -> dict[Any, int | None]:
    """Which version answered each rollout."""
    assert {answer.status_code for answer in await ask_all(gateway, rollouts)} == {200}
    return {rollout: record.version for rollout, record in (await last_records(gateway, rollouts)).items()}


# External servers


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEST_JUDGE_KEY", "sk-nobody-may-see-this")
    return "sk-nobody-may-see-this"


@pytest.fixture
async def judge() -> AsyncIterator[VllmStub]:
    """A server that is not Leyden's: no token ids, its own name for its model."""
    async with serving(VllmStub(models={"gpt-4.1"}, token_ids=False)) as server:
        yield server


def external(judge: VllmStub, **changed: Any) -> RoutingSettings:
    """The judge, named ``judge``, with its key from the environment."""
    known = {"base_url": f"{judge.url}/v1", "model": "gpt-4.1", "api_key_env": "TEST_JUDGE_KEY", **changed}
    return RoutingSettings.model_validate({"externals": {"judge": known}})


@pytest.mark.parametrize("stream", [False, True])
async def test_an_external_model_is_called_with_its_key_and_recorded(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str, key: str, *, stream: bool
) -> None:
    async with running_gateway(
        kafka, policy, stubs[0].url, routing=external(judge), replica_api_key="replicas-only"
    ) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        answer = await ask(gateway, claims, model="judge", temperature=0.3, top_p=0.5, stream=stream)
        assert (answer.status_code, answer.headers["x-leyden-model"]) == (200, "external:judge")
        assert "x-leyden-sampling" not in answer.headers
        (asked,) = judge.requests
        assert (asked["model"], asked["temperature"], asked["top_p"]) == ("gpt-4.1", 0.3, 0.5)
        assert "return_token_ids" not in asked
        assert judge.headers[0]["authorization"] == f"Bearer {key}"
        (raw,) = await gateway.log_now(claims.rollout_id)
        assert key.encode() not in (raw.value or b"")
        record = raw.message()
        assert (record.policy, record.version, record.replica) == ("external:judge", None, f"{judge.url}/v1")
        assert (record.status, record.untrainable) == (CompletionStatus.OK, "external")
        assert record.request["model"] == "judge"
        assert not stubs[0].requests
        assert (await ask(gateway, claims, model="any other name")).status_code == 200
        assert stubs[0].headers[0]["authorization"] == "Bearer replicas-only"


@pytest.mark.usefixtures("key")
async def test_external_models_are_listed_and_called_by_the_client_library(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str
) -> None:
    async with running_gateway(kafka, policy, stubs[0].url, routing=external(judge)) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        client = gateway.client(gateway.claims())
        assert {model.id: model.owned_by async for model in client.models.list()}["judge"] == "external"
        answer = await client.chat.completions.create(model="judge", messages=HELLO)
        assert answer.choices[0].message.content == judge.reply


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("stream", [False, True])
async def test_external_models_answer_callers_of_every_protocol(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str, *, stream: bool
) -> None:
    async with running_gateway(kafka, policy, stubs[0].url, routing=external(judge)) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        for path, body in (
            ("responses", {"input": HELLO}),
            ("messages", {"messages": HELLO, "max_tokens": 9, "thinking": {"type": "disabled"}}),
            ("completions", {"prompt": "hello"}),
        ):
            claims = gateway.claims()
            async with httpx.AsyncClient(base_url=gateway.base_url(claims), timeout=30) as http:
                answer = await http.post(
                    path,
                    json={**body, "model": "judge", "stream": stream},
                    headers={"authorization": f"Bearer {gateway.token(claims)}"},
                )
            assert (answer.status_code, answer.headers["x-leyden-model"]) == (200, "external:judge")
            (record,) = await gateway.completions(claims.rollout_id)
            assert (record.protocol, record.untrainable, record.streamed) == (path, "external", stream)
            assert record.request["model"] == "judge"
            assert record.response
            assert record.response["model"] == "gpt-4.1"
            assert "chat_template_kwargs" not in judge.requests[-1], "OpenAI's servers would refuse it"
        assert not stubs[0].requests


@pytest.mark.usefixtures("key")
async def test_a_stream_of_several_prompts_comes_whole_from_an_external_server(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the others take once the first has ended."""
    monkeypatch.setattr(exchange, "_REMAINDER_S", 0.05)

    async def in_turn(_body: dict[str, Any]) -> AsyncIterator[bytes]:
        for index in (0, 1):
            for text, reason in (("a", None), ("b", "stop")):
                yield sse({"choices": [{"index": index, "text": text, "finish_reason": reason}]})
                await asyncio.sleep(0.1)
        yield b"data: [DONE]\n\n"

    judge.events = in_turn
    async with running_gateway(kafka, policy, stubs[0].url, routing=external(judge)) as gateway:
        claims = gateway.claims()
        answer = await gateway.client(claims).completions.create(
            model="judge", prompt=["x", "y"], stream=True
        )
        texts = ["", ""]
        async for chunk in answer:
            texts[chunk.choices[0].index] += chunk.choices[0].text
        assert texts == ["ab", "ab"]
        records = await gateway.completions(claims.rollout_id, count=2)
        assert [(record.status, record.finish_reason) for record in records] == [("ok", "stop")] * 2


@pytest.mark.usefixtures("key")
async def test_an_external_model_of_another_tenant_is_not_there(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str
) -> None:
    routing = external(judge, tenants=["initech"])
    async with running_gateway(kafka, policy, stubs[0].url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        assert (await ask(gateway, claims, model="judge")).headers["x-leyden-model"] == f"{policy}@1"
        assert "judge" not in [model.id async for model in gateway.client(claims).models.list()]


@pytest.mark.usefixtures("key")
async def test_errors_of_an_external_server_are_retried_or_passed_on(
    kafka: KafkaSettings, stubs: list[VllmStub], judge: VllmStub, policy: str
) -> None:
    failures = [error(503, "warming up"), error(401, "bad key", "invalid_request_error")]

    def fail(_body: dict[str, Any]) -> Response | None:
        return failures.pop(0) if failures else None

    judge.fail = fail
    async with running_gateway(kafka, policy, stubs[0].url, routing=external(judge)) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        claims = gateway.claims()
        answer = await ask(gateway, claims, model="judge")
        assert (answer.status_code, answer.json()["error"]["message"]) == (401, "bad key")
        assert len(judge.requests) == 2
        (record,) = await gateway.completions(claims.rollout_id)
        assert (record.status, record.http_status) == (CompletionStatus.ERROR, 401)
        assert record.policy == "external:judge"


# Hedging


async def test_a_late_answer_is_asked_for_elsewhere(
    kafka: KafkaSettings, stubs: list[VllmStub], policy: str
) -> None:
    slow, quick = stubs
    slow.gate.clear()
    routing = RoutingSettings(hedge_after_s=0.1)
    async with running_gateway(kafka, policy, slow.url, quick.url, routing=routing) as gateway:
        await gateway.publish_policy(versions=[1], serving=1)
        before = gateway.metric("leyden_gateway_hedges_total", outcome="won")
        rollouts = [gateway.claims() for _ in range(12)]
        assert set((await homes(gateway, rollouts)).values()) == {quick.url}
        won = gateway.metric("leyden_gateway_hedges_total", outcome="won") - before
        assert len(slow.requests) >= won > 0, "on a busy machine the quick one may be late, too"
        await asyncio.wait_for(slow.hung_up.wait(), 5)
        records = (await last_records(gateway, rollouts)).values()
        assert {record.status for record in records} == {CompletionStatus.OK}
        await eventually(lambda: sum(r.in_flight for r in gateway.replicas.describe()) == 0)
