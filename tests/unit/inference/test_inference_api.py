"""The HTTP interface as clients meet it: the OpenAI client, plain HTTP, clients that hang up."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from leyden_inference import bodies
from leyden_inference.api import Api, encoded
from leyden_inference.batch import BatchLimits
from leyden_inference.engine import Engine
from leyden_inference.errors import RequestRefused
from leyden_inference.loading import Loader
from leyden_inference.serving import Served, Serving
from leyden_platform.http import HttpServer

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"
MODEL = "calculator@0"
DEADLINE_S = 60.0
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Applies one operation to two integers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "op": {"type": "string", "enum": ["+", "-", "*", "/"]},
                    "b": {"type": "integer"},
                },
                "required": ["a", "op", "b"],
            },
        },
    }
]
CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "Use the calculator, one operation at a time. Reply with the number."},
        {"role": "user", "content": "37 + 12"},
    ],
    "tools": TOOLS,
    "temperature": 0,
}
LONG = {"model": MODEL, "prompt": [5, 6, 7], "ignore_eos": True, "max_tokens": 90}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine, stop = Engine(BatchLimits(rows=4), max_queue=4), asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    yield engine
    stop.set()
    await asyncio.wait_for(running, DEADLINE_S)


@pytest.fixture
async def base_url(engine: Engine) -> AsyncIterator[str]:
    serving = Serving(engine)
    serving.add(MODEL, Loader().load_folder(SEED))
    server = HttpServer("api", Api(serving, max_body_bytes=200_000).app(), "127.0.0.1", 0)
    server.bind()
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    yield f"http://127.0.0.1:{server.port}"
    stop.set()
    await asyncio.wait_for(running, DEADLINE_S)


@pytest.fixture
async def http(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def post(http: httpx.AsyncClient, path: str, body: Any) -> Any:
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def events(http: httpx.AsyncClient, path: str, body: Any) -> list[Any]:
    response = await http.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the condition lives in another thread
            await asyncio.sleep(0.01)


async def test_a_tool_call_comes_back_in_openai_form(client: openai.AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(**CHAT)
    choice = completion.choices[0]
    assert completion.model == MODEL
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "calculator"
    assert set(json.loads(call.function.arguments)) == {"a", "op", "b"}
    assert completion.usage is not None
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


async def test_streamed_and_whole_completions_are_the_same(http: httpx.AsyncClient) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    whole = await post(http, "/v1/chat/completions", body)
    stream = await events(http, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert stream[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert stream[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("prompt_token_ids" not in event for event in stream[1:])
    assert stream[-1]["choices"] == []
    assert stream[-1]["usage"] == whole["usage"]
    parts = [event["choices"][0] for event in stream[1:-1]]
    choice = whole["choices"][0]
    assert [token for part in parts for token in part["token_ids"]] == choice["token_ids"]
    entries = [entry for part in parts for entry in part["logprobs"]["content"]]
    assert [entry["token"] for entry in entries] == [e["token"] for e in choice["logprobs"]["content"]]
    assert [entry["logprob"] for entry in entries] == pytest.approx(
        [e["logprob"] for e in choice["logprobs"]["content"]], abs=1e-4
    )
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
    assert [call["function"] for call in calls] == [c["function"] for c in choice["message"]["tool_calls"]]
    assert [call["index"] for call in calls] == [0]
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["tool_calls"]


async def test_reported_logprobs_are_those_a_learner_recomputes(http: httpx.AsyncClient) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(SEED, dtype=torch.float32)
    model.eval()
    body = {**CHAT, "temperature": 1.0, "logprobs": True, "return_token_ids": True, "n": 4}
    answers = await asyncio.gather(*(post(http, "/v1/chat/completions", body) for _ in range(2)))
    for answer in answers:
        prompt = answer["prompt_token_ids"]
        for choice in answer["choices"]:
            ids = torch.tensor([prompt + choice["token_ids"]])
            with torch.no_grad():
                logprobs = torch.log_softmax(model(ids).logits[0], dim=-1)[len(prompt) - 1 : -1]
            expected = logprobs.gather(1, ids[0, len(prompt) :, None]).squeeze(1)
            reported = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
            torch.testing.assert_close(reported, expected, atol=1e-4, rtol=0)


async def test_the_prompt_is_what_tokenize_says(http: httpx.AsyncClient) -> None:
    answer = await post(http, "/v1/chat/completions", {**CHAT, "return_token_ids": True})
    asked = {"model": MODEL, "messages": CHAT["messages"], "tools": TOOLS}
    assert (await post(http, "/tokenize", asked))["tokens"] == answer["prompt_token_ids"]
    assert (await post(http, "/tokenize", {"model": MODEL, "prompt": "1"}))["count"] == 1


async def test_text_and_token_prompts_complete_alike(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "temperature": 0, "max_tokens": 6, "logprobs": 1, "return_token_ids": True}
    ids = (await post(http, "/tokenize", {"model": MODEL, "prompt": "3 + 4"}))["tokens"]
    by_text = (await post(http, "/v1/completions", {**body, "prompt": "3 + 4"}))["choices"][0]
    by_ids = (await post(http, "/v1/completions", {**body, "prompt": ids}))["choices"][0]
    assert by_text["prompt_token_ids"] == ids
    assert by_text["token_ids"] == by_ids["token_ids"]
    assert len(by_text["logprobs"]["token_logprobs"]) == len(by_text["token_ids"])
    assert list(map(len, by_text["logprobs"]["top_logprobs"])) == [1] * len(by_text["token_ids"])
    stream = await events(http, "/v1/completions", {**body, "prompt": ids})
    assert "".join(event["choices"][0]["text"] for event in stream) == by_ids["text"]
    assert [t for event in stream for t in event["choices"][0]["token_ids"]] == by_ids["token_ids"]


async def test_a_seed_repeats_and_choices_differ(http: httpx.AsyncClient) -> None:
    body = {**LONG, "seed": 5, "n": 3, "return_token_ids": True, "max_tokens": 20}
    first, again = [await post(http, "/v1/completions", body) for _ in range(2)]
    tokens = [choice["token_ids"] for choice in first["choices"]]
    assert tokens == [choice["token_ids"] for choice in again["choices"]]
    assert len({tuple(ids) for ids in tokens}) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_text_and_tokens(http: httpx.AsyncClient, stream: bool) -> None:
    body = {**LONG, "seed": 1, "return_token_ids": True}
    whole = (await post(http, "/v1/completions", body))["choices"][0]
    stop = whole["text"][10:13]
    if stream:
        parts = [e["choices"][0] for e in await events(http, "/v1/completions", {**body, "stop": stop})]
        text, finish = "".join(part["text"] for part in parts), parts[-1]["finish_reason"]
        tokens = [token for part in parts for token in part["token_ids"]]
    else:
        choice = (await post(http, "/v1/completions", {**body, "stop": [stop]}))["choices"][0]
        text, tokens, finish = choice["text"], choice["token_ids"], choice["finish_reason"]
    assert text == whole["text"][: whole["text"].index(stop)]
    assert tokens == whole["token_ids"][: len(tokens)]
    assert len(tokens) < len(whole["token_ids"])
    assert finish == "stop"


async def test_lengths_are_bounded_by_request_and_generation_configuration(http: httpx.AsyncClient) -> None:
    for asked, given in ((3, 3), (400, 96)):
        body = {**LONG, "max_tokens": asked}
        answer = await post(http, "/v1/completions", body)
        assert answer["usage"]["completion_tokens"] == given
        assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "calculator@7"}, 404, "calculator@7"),
        ("/v1/chat/completions", {**CHAT, "model": "nobody"}, 404, "Loaded: calculator@0"),
        ("/v1/chat/completions", {"model": MODEL}, 400, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": []}, 400, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"content": "x"}]}, 400, "role"),
        ("/v1/chat/completions", {**CHAT, "temperature": -1}, 400, "temperature"),
        ("/v1/chat/completions", {**CHAT, "n": 0}, 400, "n"),
        ("/v1/chat/completions", {**CHAT, "top_logprobs": 2}, 400, "logprobs"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, 400, "tool_choice"),
        (
            "/v1/chat/completions",
            {**CHAT, "response_format": {"type": "json_object"}},
            400,
            "response_format",
        ),
        ("/v1/chat/completions", {**CHAT, "frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ("/v1/chat/completions", {**CHAT, "chat_template": "{{ 1 }}"}, 400, "chat_template"),
        ("/v1/chat/completions", {**CHAT, "documents": [{"text": "x"}]}, 400, "documents"),
        ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"messages": []}}, 400, "messages"),
        ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"tools": []}}, 400, "tools"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": 5}]}, 400, "content"),
        (
            "/v1/chat/completions",
            {**CHAT, "messages": [{"role": "assistant", "tool_calls": 5}]},
            400,
            "tool_calls",
        ),
        ("/v1/completions", {**LONG, "stop_token_ids": [5]}, 400, "stop_token_ids"),
        ("/v1/completions", {**LONG, "truncate_prompt_tokens": 1}, 400, "truncate_prompt_tokens"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 10_000}, 400, "maximum context length"),
        ("/v1/completions", {"model": MODEL, "prompt": [5] * 600}, 400, "maximum context length"),
        ("/v1/completions", {"model": MODEL, "prompt": "x" * 3000}, 400, "maximum context length"),
        ("/v1/completions", {**LONG, "stop": ["x"] * 129}, 400, "at most 128"),
        ("/v1/completions", {"model": MODEL, "prompt": [99_999]}, 400, "token ids"),
        ("/v1/completions", {"model": MODEL, "prompt": [-1]}, 400, "token ids"),
        ("/v1/completions", {"model": MODEL, "prompt": ""}, 400, "empty"),
        ("/v1/completions", {"model": MODEL, "prompt": []}, 400, "prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": ["a", "b"]}, 400, "one prompt"),
        ("/v1/completions", {"model": MODEL, "prompt": "x" * 300_000}, 413, "larger"),
        ("/v1/completions", [1], 400, "object"),
        ("/v1/nothing", {}, 404, "/v1/nothing"),
    ],
)
async def test_bad_requests_get_an_openai_error(
    http: httpx.AsyncClient, path: str, body: Any, status: int, named: str
) -> None:
    response = await http.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert named in error["message"]
    assert {"message", "type", "param", "code"} <= set(error)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
async def test_bytes_that_are_not_json_are_refused(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": "\ud800"}]}),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "\ud800", "content": "x"}]}),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "function", "function": {"name": "\ud800"}}]}),
        ("/v1/chat/completions", {**CHAT, "model": "\ud800"}),
        ("/v1/completions", {**LONG, "prompt": "\ud800"}),
        ("/tokenize", {"model": MODEL, "prompt": "\ud800"}),
    ],
)
async def test_half_a_character_is_refused(http: httpx.AsyncClient, path: str, body: Any) -> None:
    response = await http.post(path, content=json.dumps(body).encode())
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_text_that_cannot_fit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading megabytes takes seconds, in which nobody else would be answered."""
    model = Loader(context=16).load_folder(SEED)
    tokenizer, runner = (
        model.text.tokenizer,
        Engine(BatchLimits(), max_queue=1).install("m", model.decoder, model.eos),
    )
    served = Served(MODEL, model, runner)
    fits = "1 " * (2 * 16 * tokenizer.longest)
    assert encoded(served, fits) == tokenizer.encode(fits)
    monkeypatch.setattr(type(tokenizer), "encode", None)
    with pytest.raises(RequestRefused, match="maximum context length is 16") as raised:
        encoded(served, fits + "1")
    assert raised.value.code == "context_length_exceeded"


async def test_arguments_as_deep_as_json_goes_are_text(http: httpx.AsyncClient) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
    message = {"role": "assistant", "tool_calls": [call]}
    response = await http.post("/v1/chat/completions", json={**CHAT, "messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_a_template_may_be_given_what_it_asks_for(http: httpx.AsyncClient) -> None:
    options = {"self": 1, "not a name": 2, "add_generation_prompt": True}
    answer = await post(http, "/v1/chat/completions", {**CHAT, "chat_template_kwargs": options})
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_failure_of_our_own_is_told_in_the_clients_language(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_serving: Serving, _ref: str) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Serving, "find", fail)
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")


async def test_a_body_that_does_not_arrive_is_given_up(
    base_url: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.2)
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_S)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.2 s" in answer
    writer.close()
    assert (await http.get("/health")).status_code == 200


async def test_models_and_health(http: httpx.AsyncClient, client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await http.get("/health")).status_code == 200
    bare = await post(http, "/v1/completions", {**LONG, "model": "calculator", "max_tokens": 1})
    assert bare["model"] == MODEL


async def test_a_full_queue_answers_503_and_the_rest_finish(http: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(http.post("/v1/completions", json=LONG) for _ in range(20)))
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 8
    refused = next(response for response in responses if response.status_code == 503)
    assert refused.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_its_slots(
    base_url: str, engine: Engine, http: httpx.AsyncClient, stream: bool
) -> None:
    host, port = base_url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "n": 4, "stream": stream, "prompt": "long", "max_tokens": 90}).encode()
    _reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    await until(lambda: engine.open_sequences == 4)
    writer.transport.abort()
    await until(lambda: engine.open_sequences == 0)
    answer = await post(http, "/v1/completions", {**LONG, "max_tokens": 2})
    assert answer["usage"]["completion_tokens"] == 2


async def test_after_the_engine_has_ended_requests_are_told(http: httpx.AsyncClient, engine: Engine) -> None:
    stop = asyncio.Event()
    other = Engine(BatchLimits(rows=1), max_queue=1)
    assert other.not_ready() is not None
    running = asyncio.create_task(other.run(stop))
    await until(lambda: other.not_ready() is None)
    stop.set()
    await asyncio.wait_for(running, DEADLINE_S)
    serving = Serving(other)
    serving.add(MODEL, Loader().load_folder(SEED))
    transport = httpx.ASGITransport(Api(serving).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as stopped:
        assert (await stopped.post("/v1/completions", json=LONG)).status_code == 503
        assert (await stopped.get("/health")).status_code == 503
