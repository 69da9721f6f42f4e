"""Every protocol through the gateway: what the caller gets, what the replica is asked, what is on the log."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from gateway_harness import CALCULATOR, hold_acknowledgements, refuse_to_publish
from protocols import (
    CHAT,
    COMPLETIONS,
    DIALECTS,
    MESSAGES,
    QUESTION,
    RESPONSES,
    Dialect,
    Json,
    Stage,
    events_of,
    stage,
)
from starlette.responses import JSONResponse
from vllm_stub import FIRST_ID, PROMPT_IDS
from vllm_text import VECTOR

from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_platform.messaging import PublishFailed
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import CompletionRecorded, CompletionStatus, Mode, Protocol, Split

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]

IDS = [FIRST_ID + i for i in range(5)]
LOGPROBS = [-0.1, -0.2, -0.3, -0.4, -0.5]
ARGUMENTS = '{"a":3,"op":"*","b":4}'
CALLS: list[Json] = [
    {"id": f"call_{i}", "type": "function", "function": {"name": "calculator", "arguments": ARGUMENTS}}
    for i in (1, 2)
]
CALL_IDS = [FIRST_ID + i for i in range(7)]
"""Each call is three tokens, and there is an end token."""
KEY = "sk-shop-0123456789"
EMBEDDINGS = Dialect(
    Protocol.CHAT, "/embeddings", {"model": "m", "input": ["x", "y"]}, said=str, piece=str, acts=bool
)
COUNTING = Dialect(
    Protocol.MESSAGES,
    "/messages/count_tokens",
    {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    said=str,
    piece=str,
    acts=bool,
)
TRANSLATED = [RESPONSES, MESSAGES]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(kafka: KafkaSettings) -> AsyncIterator[Stage]:
    grant = KeyGrant(sha256=sha256(KEY.encode()).hexdigest(), tenant="shop", session="key")
    async with stage(kafka, attribution=AttributionSettings(api_keys={"shop": grant})) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def on(shared: Stage) -> AsyncIterator[Stage]:
    """The stage as each test finds it, and has to leave it."""
    shared.stub.reset()
    yield shared
    await shared.gateway.rest()


async def one(on: Stage, claims: RolloutClaims) -> CompletionRecorded:
    (record,) = await on.gateway.completions(claims.rollout_id)
    return record


def assert_trainable(record: CompletionRecorded, prompt: list[int] | None = None) -> None:
    """Whatever was spoken, ids and log-probabilities are those of the stub's usual reply."""
    assert (record.untrainable, record.status) == (None, CompletionStatus.OK)
    assert record.prompt_token_ids == (prompt or PROMPT_IDS)
    assert record.token_ids == IDS
    assert record.logprobs == pytest.approx(LOGPROBS)
    assert (record.version, record.finish_reason) == (1, "stop")
    assert record.usage.completion_tokens == 5


async def direct(on: Stage, path: str, body: Json) -> bytes:
    """What the replica itself answers."""
    named = {**body, "model": f"{on.gateway.policy}@1"}
    return (await on.http.post(f"{on.stub.url}/v1{path}", json=named)).content


# All of them


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_a_whole_answer(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-leyden-sampling"] == "forced"
    assert "x-leyden-overridden" not in answer.headers
    assert dialect.said(answer.json()) == on.stub.reply
    record = await one(on, claims)
    assert_trainable(record)
    assert answer.headers["x-leyden-completion-id"] == str(record.completion_id)
    assert (record.protocol, record.mode, record.streamed) == (dialect.protocol, Mode.TRAINING, False)
    assert record.request == dialect.request
    assert record.response == answer.json()
    assert record.sampling.temperature == claims.sampling.temperature == on.stub.requests[0]["temperature"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_a_stream(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(dialect, claims, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    events = events_of(answer)
    assert "".join(map(dialect.piece, events)) == on.stub.reply
    assert (dialect in TRANSLATED) == ("[DONE]" not in answer.text)
    for hidden in ("token_ids", '"logprob"', "token_logprobs"):
        assert hidden not in answer.text
    record = await one(on, claims)
    assert_trainable(record)
    assert (record.protocol, record.streamed) == (dialect.protocol, True)
    assert record.request == {**dialect.request, "stream": True}
    assert record.response is not None
    assert dialect.said(record.response) == on.stub.reply
    assert record.timings.first_token_s is not None


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_no_end_without_an_acknowledgement(
    on: Stage, monkeypatch: pytest.MonkeyPatch, dialect: Dialect, *, streamed: bool
) -> None:
    acknowledged = hold_acknowledgements(monkeypatch)
    claims, events, text_is_there = on.gateway.claims(), [], asyncio.Event()

    async def read_stream() -> None:
        async with on.streaming(dialect, claims) as arriving:
            async for event in arriving:
                events.append(event)
                if "".join(map(dialect.piece, events)) == on.stub.reply:
                    text_is_there.set()

    async def read_whole() -> None:
        assert (await on.ask(dialect, claims)).status_code == 200

    reading = asyncio.create_task(read_stream() if streamed else read_whole())
    if streamed:
        await asyncio.wait_for(text_is_there.wait(), 5)
    done, _ = await asyncio.wait([reading], timeout=0.2)
    assert not done
    assert not [event for event in events if dialect.acts(event)]
    assert not await on.gateway.log_now(claims.rollout_id)
    acknowledged.set()
    await reading
    assert [event for event in events if dialect.acts(event)] or not streamed
    assert_trainable(await one(on, claims))


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_a_log_that_refuses_is_an_error_of_the_protocol(
    on: Stage, monkeypatch: pytest.MonkeyPatch, dialect: Dialect
) -> None:
    refuse_to_publish(monkeypatch, PublishFailed("not enough replicas"))
    answer = await on.ask(dialect, on.gateway.claims())
    assert answer.status_code == 503
    kind, message = dialect.error(answer.json())
    assert kind == ("overloaded_error" if dialect is MESSAGES else "recording_unavailable")
    assert "not enough replicas" in message
    events = events_of(await on.ask(dialect, on.gateway.claims(), stream=True))
    assert "".join(map(dialect.piece, events)) == on.stub.reply
    assert not [event for event in events if dialect.acts(event)]
    assert "could not be recorded" in dialect.broke(events)[1]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_agents_may_be_named_by_the_path(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims()
    url = f"{on.gateway.base_url(claims, 'critic')}{dialect.path}"
    answer = await on.http.post(url, json=dialect.request, headers=dialect.headers(on.gateway.token(claims)))
    assert answer.status_code == 200
    assert (await one(on, claims)).agent == "critic"


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_a_path_without_a_rollout(on: Stage, dialect: Dialect) -> None:
    claims = on.gateway.claims(split=Split.EVAL)
    url, headers = f"{on.gateway.url}/v1{dialect.path}", dialect.headers(on.gateway.token(claims))
    answer = await on.http.post(url, json={**dialect.request, "temperature": 0.25}, headers=headers)
    assert answer.status_code == 200
    record = await one(on, claims)
    assert_trainable(record)
    assert (record.mode, record.attempt, record.sampling.temperature) == (
        Mode.EVALUATION,
        claims.attempt,
        0.25,
    )


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
async def test_an_api_key(on: Stage, dialect: Dialect) -> None:
    session = {"x-leyden-session": f"s-{dialect}"}
    url, headers = f"{on.gateway.url}/v1{dialect.path}", dialect.headers(KEY)
    body = {**dialect.request, "model": on.gateway.policy}
    answer = await on.http.post(url, json=body, headers={**headers, **session})
    assert answer.status_code == 200, answer.text
    (raw,) = [
        record for record in await on.gateway.log_now() if f'"s-{dialect}"'.encode() in (record.value or b"")
    ]
    record = raw.message()
    assert_trainable(record)
    assert (record.tenant, record.mode, record.session) == ("shop", Mode.PRODUCTION, f"s-{dialect}")


# Text completions


async def test_a_text_completion_by_the_client_library(on: Stage) -> None:
    claims = on.gateway.claims()
    async with on.gateway.client(claims) as client:
        whole = await client.completions.create(model="m", prompt=QUESTION)
        stream = await client.completions.create(model="m", prompt=QUESTION, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert whole.choices[0].text == text == on.stub.reply


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_a_prompt_of_ids(on: Stage, *, streamed: bool) -> None:
    claims = on.gateway.claims()
    await on.ask(COMPLETIONS, claims, prompt=[11, 12], stream=streamed)
    assert_trainable(await one(on, claims), prompt=[11, 12])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("prompts", [["x", "y"], [[11], [12, 13]]], ids=["texts", "ids"])
async def test_every_prompt_and_alternative_is_a_record(on: Stage, prompts: Any, *, streamed: bool) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(COMPLETIONS, claims, prompt=prompts, n=2, stream=streamed)
    records = await on.gateway.completions(claims.rollout_id, count=4)
    assert len({record.completion_id for record in records}) == 4
    assert answer.headers["x-leyden-completion-id"] == str(records[0].completion_id)
    expected = [prompt if isinstance(prompt, list) else PROMPT_IDS for prompt in prompts for _ in range(2)]
    assert sorted(record.prompt_token_ids for record in records) == sorted(expected)
    for record in records:
        assert_trainable(record, record.prompt_token_ids)
        assert record.response is not None
        assert len(record.response["choices"]) == 1
        assert record.request["prompt"] == prompts


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("asked", [0, 2])
async def test_logprobs_of_text_as_the_replica_wrote_them(on: Stage, asked: int, *, streamed: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if streamed else {}
    body = {
        "prompt": QUESTION,
        "logprobs": asked,
        "return_token_ids": True,
        "stream": streamed,
        **options,
    }
    answer = await on.ask(COMPLETIONS, on.gateway.claims(split=Split.EVAL), body)
    assert answer.content == await direct(on, "/completions", body)
    assert on.stub.requests[0]["logprobs"] == asked


async def test_logprobs_of_text_are_removed_unless_asked_for(on: Stage) -> None:
    body = (await on.ask(COMPLETIONS, on.gateway.claims())).json()
    (choice,) = body["choices"]
    assert choice["logprobs"] is None
    assert not {"token_ids", "prompt_token_ids"} & set(choice)
    assert on.stub.requests[0]["logprobs"] == 1


# Embeddings


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings_pass_byte_for_byte(on: Stage, encoding: str) -> None:
    claims = on.gateway.claims()
    body = {**EMBEDDINGS.request, "encoding_format": encoding}
    answer = await on.ask(EMBEDDINGS, claims, body)
    assert answer.content == await direct(on, "/embeddings", body)
    assert set(on.stub.requests[0]) == {"model", "input", "encoding_format"}
    record = await one(on, claims)
    assert (record.operation, record.untrainable, record.status) == (
        "embeddings",
        "embeddings",
        CompletionStatus.OK,
    )
    assert record.request == body
    assert record.response is not None
    assert "data" not in record.response
    assert record.usage.prompt_tokens == record.response["usage"]["prompt_tokens"] == 7


async def test_embeddings_by_the_client_library(on: Stage) -> None:
    async with on.gateway.client(on.gateway.claims()) as client:
        found = await client.embeddings.create(model="m", input="x")
    assert found.data[0].embedding == VECTOR


# Counting tokens


async def test_tokens_are_counted_by_the_replica(on: Stage) -> None:
    claims, tool = on.gateway.claims(), {"name": "add", "input_schema": {"type": "object"}}
    body = {"model": "m", "system": "Be brief.", "messages": [{"role": "user", "content": "2 + 2"}]}
    answer = await on.ask(COUNTING, claims, {**body, "tools": [tool]})
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": len(PROMPT_IDS)})
    (asked,) = on.stub.requests
    assert asked.keys() == {"model", "messages", "tools"}
    assert asked["model"] == f"{on.gateway.policy}@1"
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    record = await one(on, claims)
    assert (record.protocol, record.operation, record.untrainable) == (
        Protocol.MESSAGES,
        "count_tokens",
        "count_tokens",
    )
    assert record.response == {"input_tokens": len(PROMPT_IDS)}


async def test_what_cannot_be_counted_is_an_error_of_the_protocol(on: Stage) -> None:
    empty = await on.ask(COUNTING, on.gateway.claims(), {"model": "m"})
    assert (empty.status_code, empty.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "messages" in empty.json()["error"]["message"]
    on.stub.fail = lambda _body: JSONResponse({"tokens": []})
    odd = await on.ask(COUNTING, on.gateway.claims())
    assert (odd.status_code, odd.json()["type"]) == (502, "error")
    assert "no count of tokens" in odd.json()["error"]["message"]


# Responses


async def test_a_response_by_the_client_library(on: Stage) -> None:
    claims = on.gateway.claims()
    async with on.gateway.client(claims) as client:
        whole = await client.responses.create(model="m", input=QUESTION, instructions="Be brief.")
        async with client.responses.stream(model="m", input=QUESTION) as stream:
            streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == on.stub.reply
    assert whole.usage is not None
    assert (whole.status, whole.usage.output_tokens) == ("completed", 5)
    assert on.stub.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
    ]
    records = await on.gateway.completions(claims.rollout_id, count=2)
    responses = [record.response for record in records if record.response]
    assert [response["id"] for response in responses] == [whole.id, streamed.id]
    assert [response["status"] for response in responses] == ["completed", "completed"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_tool_calls_of_a_response(on: Stage, *, streamed: bool) -> None:
    on.stub.tool_calls = CALLS
    claims = on.gateway.claims()
    tool = {"type": "function", **CALCULATOR["function"]}
    answer = await on.ask(RESPONSES, claims, tools=[tool], stream=streamed)
    response = events_of(answer)[-1]["response"] if streamed else answer.json()
    calls = [(item["type"], item["call_id"], item["arguments"]) for item in response["output"]]
    assert calls == [("function_call", f"call_{i}", ARGUMENTS) for i in (1, 2)]
    assert on.stub.requests[0]["tools"] == [CALCULATOR]
    record = await one(on, claims)
    assert (record.token_ids, record.untrainable, record.finish_reason) == (CALL_IDS, None, "tool_calls")
    assert record.request["tools"] == [tool]
    assert record.response == response


async def test_what_responses_cannot_do_is_said_in_place(on: Stage) -> None:
    claims = on.gateway.claims()
    answer = await on.ask(RESPONSES, claims, previous_response_id="resp_1")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "previous_response_id"
    assert (await one(on, claims)).untrainable == "invalid_request"
    assert not on.stub.requests


# Messages


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_tool_use_of_a_message(on: Stage, *, streamed: bool) -> None:
    on.stub.tool_calls = CALLS
    claims = on.gateway.claims()
    function = CALCULATOR["function"]
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    answer = await on.ask(MESSAGES, claims, tools=[tool], stream=streamed)
    record = await one(on, claims)
    message: Any = record.response if streamed else answer.json()
    uses = [(block["type"], block["id"], block["input"]) for block in message["content"]]
    assert uses == [("tool_use", f"call_{i}", {"a": 3, "op": "*", "b": 4}) for i in (1, 2)]
    assert message["stop_reason"] == "tool_use"
    assert record.response == message
    assert (record.token_ids, record.untrainable, record.finish_reason) == (CALL_IDS, None, "tool_calls")
    assert record.request["tools"] == [tool]
    if streamed:
        pieces = [e["delta"]["partial_json"] for e in events_of(answer) if e["type"] == "content_block_delta"]
        assert "".join(pieces) == ARGUMENTS * 2


async def test_a_streamed_message_begins_and_ends_as_the_protocol_has_it(on: Stage) -> None:
    events = events_of(await on.ask(MESSAGES, on.gateway.claims(), stream=True))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[0]["message"]["usage"] == {"input_tokens": 4, "output_tokens": 0}
    assert events[-2]["usage"] == {"input_tokens": 4, "output_tokens": 5}


async def test_a_message_by_a_bearer_token(on: Stage) -> None:
    claims = on.gateway.claims()
    headers = {"authorization": f"Bearer {on.gateway.token(claims)}"}
    answer = await on.http.post(f"{on.gateway.url}/v1/messages", json=MESSAGES.request, headers=headers)
    assert answer.status_code == 200
    assert_trainable(await one(on, claims))


async def test_a_conversation_goes_on_in_another_protocol(on: Stage) -> None:
    """One rollout, four protocols: each call is recorded as it was spoken, in the order of the calls."""
    claims = on.gateway.claims()
    for dialect in DIALECTS:
        assert (await on.ask(dialect, claims)).status_code == 200
    records = await on.gateway.completions(claims.rollout_id, count=4)
    assert [record.protocol for record in records] == [dialect.protocol for dialect in DIALECTS]
    assert [record.request for record in records] == [dialect.request for dialect in DIALECTS]


async def test_chat_by_raw_http_and_by_the_client_library_are_one(on: Stage) -> None:
    claims = on.gateway.claims()
    raw: httpx.Response = await on.ask(CHAT, claims)
    async with on.gateway.client(claims) as client:
        completion = await client.chat.completions.create(model="m", messages=CHAT.request["messages"])
    assert openai.types.chat.ChatCompletion.model_validate(raw.json()) == completion
