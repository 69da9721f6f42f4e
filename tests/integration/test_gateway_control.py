"""Whose calls they are and what they may do, over a real broker, with the real OpenAI client."""

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import openai
import pytest
from gateway_harness import Gateway, running_gateway
from vllm_stub import VllmStub, serving

from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Mode, cause_id

pytestmark = pytest.mark.kafka

HELLO: Any = [{"role": "user", "content": "3 * 4?"}]
KEY, TRUSTED = "sk-shop-0123456789", "sk-trusted-0123456789"


def grant(key: str, **fields: Any) -> KeyGrant:
    return KeyGrant(sha256=sha256(key.encode()).hexdigest(), tenant="shop", run="live", **fields)


@pytest.fixture
def policy() -> str:
    return f"calculator-{uuid4().hex[:8]}"


@pytest.fixture
async def stub(policy: str) -> AsyncIterator[VllmStub]:
    async with serving(VllmStub(models={f"{policy}@1"})) as replica:
        yield replica


@pytest.fixture
async def gateway(kafka: KafkaSettings, stub: VllmStub, policy: str) -> AsyncIterator[Gateway]:
    settings = AttributionSettings(
        api_keys={"shop": grant(KEY), "trusted": grant(TRUSTED, rollouts=True, policy=policy)},
        model_aliases={"gpt-4o-mini": f"{policy}#serving/critic", "gpt-9": f"{policy}@9"},
    )
    async with running_gateway(kafka, policy, stub.url, attribution=settings) as running:
        await running.publish_policy(versions=[1], serving=1)
        yield running


def client(gateway: Gateway, prefix: str = "", key: str = KEY, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}{prefix}/v1", api_key=key, max_retries=0, **options)


async def post(gateway: Gateway, path: str, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as caller:
        body = {"model": "m", "messages": HELLO, "max_tokens": 9}
        return await caller.post(f"{gateway.url}{path}", headers=headers, json=body)


@pytest.mark.parametrize(
    ("prefix", "headers", "user", "named"),
    [
        ("/sessions/{}", {}, None, "{}"),
        ("/sessions/{}/agents/critic", {"x-leyden-session": "another"}, "alice", "{}"),
        ("", {"x-leyden-session": "{}"}, "alice", "{}"),
        ("", {"baggage": "other=1,leyden.session={};ttl=9"}, None, "{}"),
        ("", {}, "{}", "{}"),
    ],
)
async def test_production_traffic_is_recorded_by_session(
    gateway: Gateway, prefix: str, headers: dict[str, str], user: str | None, named: str
) -> None:
    name = f"session-{uuid4()}"
    caller = client(
        gateway, prefix.format(name), default_headers={k: v.format(name) for k, v in headers.items()}
    )
    options: Any = {"user": user.format(name)} if user else {}
    for _ in range(2):
        await caller.chat.completions.create(model=gateway.policy, messages=HELLO, **options)
    records = await gateway.completions(cause_id("session", "shop", "live", named.format(name)), count=2)
    assert [(r.tenant, r.run, r.session, r.mode) for r in records] == [
        ("shop", "live", named.format(name), Mode.PRODUCTION)
    ] * 2
    assert {r.agent for r in records} == {"critic" if "critic" in prefix else "main"}


async def test_baggage_may_come_in_several_headers(gateway: Gateway) -> None:
    name = f"session {uuid4()}"
    lines = [f"leyden.session={quote(name)}", "other=1", "leyden.agent=critic;ttl=9"]
    headers = [("authorization", f"Bearer {KEY}"), *(("baggage", line) for line in lines)]
    async with httpx.AsyncClient() as caller:
        body = {"model": gateway.policy, "messages": HELLO}
        await caller.post(f"{gateway.url}/v1/chat/completions", headers=headers, json=body)
    (record,) = await gateway.completions(cause_id("session", "shop", "live", name))
    assert (record.session, record.agent) == (name, "critic")


async def test_a_trace_is_the_session_of_what_names_none(gateway: Gateway) -> None:
    trace = uuid4().hex
    headers = {"authorization": f"Bearer {KEY}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    async with httpx.AsyncClient() as caller:
        body = {"model": gateway.policy, "messages": HELLO}
        await caller.post(f"{gateway.url}/v1/chat/completions", headers=headers, json=body)
    (record,) = await gateway.completions(cause_id("session", "shop", "live", trace))
    assert record.session == trace


async def test_the_model_names_policy_and_role(gateway: Gateway) -> None:
    name = f"session-{uuid4()}"
    caller = client(gateway, f"/sessions/{name}")
    for model in ("gpt-4o-mini", f"{gateway.policy}@1/planner"):
        await caller.chat.completions.create(model=model, messages=HELLO)
    records = await gateway.completions(cause_id("session", "shop", "live", name), count=2)
    assert [(r.policy, r.version, r.agent) for r in records] == [
        (gateway.policy, 1, "critic"),
        (gateway.policy, 1, "planner"),
    ]
    claims = gateway.claims()
    await gateway.client(claims).chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert [r.agent for r in await gateway.completions(claims.rollout_id)] == ["critic"]


async def test_aliases_are_listed_where_what_they_mean_is(gateway: Gateway) -> None:
    served = [gateway.policy, f"{gateway.policy}#serving", f"{gateway.policy}@1"]
    for caller in (client(gateway), gateway.client(gateway.claims())):
        listed = [model.id async for model in caller.models.list()]
        assert set(listed) >= {*served, "gpt-4o-mini"}
        assert "gpt-9" not in listed, "nobody serves what it means"
        assert (await caller.models.retrieve("gpt-4o-mini")).owned_by == "leyden"
    others = gateway.claims().model_copy(update={"policy": "poet"})
    assert [model.id async for model in gateway.client(others).models.list()] == []


@pytest.mark.parametrize("named", [{}, {"model": None}, {"model": ""}, {"model": 5}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"])
async def test_a_request_without_a_model_is_told_so(
    gateway: Gateway, path: str, named: dict[str, Any]
) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"messages": HELLO, "input": "hi", "max_tokens": 9, **named}
    async with httpx.AsyncClient(timeout=30) as caller:
        answer = await caller.post(f"{gateway.url}{path}", headers=headers, json=body)
    assert answer.status_code == 400
    assert "names no model" in answer.json()["error"]["message"]
    assert answer.json()["error"].get("param", "model") == "model"


async def test_a_trusted_key_names_the_rollout(gateway: Gateway) -> None:
    rollout_id = uuid4()
    headers = {"x-leyden-rollout-id": str(rollout_id), "x-leyden-attempt": "3", "x-leyden-agent": "helper"}
    caller = client(gateway, key=TRUSTED, default_headers=headers)
    await caller.chat.completions.create(model="whatever", messages=HELLO)
    (record,) = await gateway.completions(rollout_id)
    assert (record.attempt, record.agent, record.tenant, record.mode) == (3, "helper", "shop", "production")


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_tokens_come_in_the_headers_that_clients_use(gateway: Gateway, header: str) -> None:
    claims = gateway.claims()
    answer = await post(gateway, "/v1/chat/completions", {header: gateway.token(claims)})
    assert answer.status_code == 200
    assert len(await gateway.completions(claims.rollout_id)) == 1


@pytest.mark.parametrize(
    ("path", "ttl_s", "headers", "status", "code"),
    [
        (None, 60, {}, 200, None),
        (None, -60, {}, 401, "invalid_token"),
        ("/v1", 60, {"x-leyden-rollout-id": str(UUID(int=7))}, 403, "wrong_rollout"),
        ("/v1", 60, {"x-leyden-attempt": "1"}, 403, "wrong_rollout"),
        ("/v1", 60, {"baggage": f"leyden.rollout_id={UUID(int=7)}"}, 403, "wrong_rollout"),
        (f"/rollouts/{UUID(int=7)}/attempts/2/v1", 60, {}, 403, "wrong_rollout"),
        ("/rollouts/seven/attempts/2/v1", 60, {}, 404, "not_found"),
        ("/v1", 60, {"x-leyden-agent": "the critic"}, 400, "invalid_request"),
    ],
)
async def test_a_token_is_for_its_own_attempt(
    gateway: Gateway, path: str | None, ttl_s: float, headers: dict[str, str], status: int, code: str | None
) -> None:
    claims = gateway.claims()
    base = path or f"/rollouts/{claims.rollout_id}/attempts/{claims.attempt}/v1"
    own = {"authorization": f"Bearer {gateway.token(claims, ttl_s)}"}
    answer = await post(gateway, f"{base}/chat/completions", own | headers)
    assert answer.status_code == status
    assert answer.json().get("error", {}).get("code") == code
    assert len(await gateway.log_now(claims.rollout_id)) == (status == 200)


async def test_refusals_speak_the_caller_s_protocol(gateway: Gateway) -> None:
    answer = await post(
        gateway, "/v1/messages", {"x-api-key": "sk-ant-nobody", "anthropic-version": "2023-06-01"}
    )
    assert answer.status_code == 401
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "authentication_error"
