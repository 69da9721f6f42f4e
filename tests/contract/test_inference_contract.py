"""What every engine of the service must do: the built-in one; vLLM if ``LEYDEN_TEST_VLLM`` is set."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from inference_process import ENGINES, SEED, engine_environment, running_inference
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.timeout(600)

NAME = "calculator@0"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Compute one operation.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer"},
                    "op": {"type": "string"},
                    "b": {"type": "integer"},
                },
            },
        },
    }
]
QUESTION = [{"role": "user", "content": "12 + 34 * 7"}]
Json = dict[str, Any]


@pytest.fixture(scope="module", params=ENGINES)
def http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the service over the seed model."""
    environment = engine_environment(request.param) | {
        "LEYDEN_INFERENCE_FOLLOW": "false",
        "LEYDEN_INFERENCE_MODELS": json.dumps([{"name": NAME, "path": str(SEED)}]),
    }
    log = tmp_path_factory.mktemp(request.param) / "log"
    with running_inference(log, environment) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def model() -> Any:
    """The same weights by transformers."""
    torch.set_num_threads(1)
    loaded: Any = AutoModelForCausalLM.from_pretrained(SEED, dtype=torch.float32)
    return loaded.eval()


def chat(http: httpx.Client, **body: Any) -> Json:
    asked = {"model": NAME, "messages": QUESTION, "tools": TOOLS, "max_tokens": 40, **body}
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def events(http: httpx.Client, path: str, **body: Any) -> list[Json]:
    asked = {"model": NAME, "stream": True, **body}
    with http.stream("POST", path, json=asked) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def expected(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of tokens behind a prompt."""
    ids = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0], dim=-1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, ids[0, len(prompt) :, None]).squeeze(1)


def test_ids_and_logprobs_are_those_of_the_weights(http: httpx.Client, model: Any) -> None:
    for seed in range(4):
        answer = chat(http, logprobs=True, return_token_ids=True, temperature=1.0, seed=seed)
        choice = answer["choices"][0]
        reported = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert answer["model"] == NAME
        assert len(reported) == len(choice["token_ids"]) == answer["usage"]["completion_tokens"]
        assert answer["usage"]["prompt_tokens"] == len(answer["prompt_token_ids"])
        computed = expected(model, answer["prompt_token_ids"], choice["token_ids"])
        torch.testing.assert_close(torch.tensor(reported), computed, atol=1e-3, rtol=0)


def test_a_stream_says_the_same_as_a_whole_answer(http: httpx.Client) -> None:
    asked: Json = {"messages": QUESTION, "tools": TOOLS, "max_tokens": 40, "temperature": 0}
    asked |= {"logprobs": True, "return_token_ids": True}
    whole = chat(http, **asked)
    chunks = events(http, "/v1/chat/completions", **asked, stream_options={"include_usage": True})
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert {chunk["model"] for chunk in chunks} == {NAME}
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    ids = [token for choice in choices for token in choice.get("token_ids") or []]
    assert ids == whole["choices"][0]["token_ids"]
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert content == (whole["choices"][0]["message"]["content"] or "")
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
        whole["choices"][0]["finish_reason"]
    ]
    logprobs = [e["logprob"] for c in choices if c.get("logprobs") for e in c["logprobs"]["content"]]
    assert logprobs == pytest.approx(
        [e["logprob"] for e in whole["choices"][0]["logprobs"]["content"]], abs=1e-4
    )
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_tool_calls_are_parsed_whole_and_streamed(http: httpx.Client) -> None:
    whole = chat(http, temperature=0)["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    (call,) = whole["message"]["tool_calls"]
    assert call["function"]["name"] == "calculator"
    assert json.loads(call["function"]["arguments"]).keys() == {"a", "op", "b"}
    chunks = events(
        http, "/v1/chat/completions", messages=QUESTION, tools=TOOLS, max_tokens=40, temperature=0
    )
    parts = [
        call for c in chunks if c["choices"] for call in c["choices"][0]["delta"].get("tool_calls") or []
    ]
    arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    assert json.loads(arguments) == json.loads(call["function"]["arguments"])


def test_several_choices_with_a_seed_repeat_themselves(http: httpx.Client) -> None:
    first, second = (
        chat(http, n=4, seed=3, temperature=1.5, max_tokens=8, return_token_ids=True) for _ in range(2)
    )
    tokens = [[choice["token_ids"] for choice in answer["choices"]] for answer in (first, second)]
    assert len(tokens[0]) == 4
    assert tokens[0] == tokens[1]
    assert len({tuple(each) for each in tokens[0]}) > 1


def test_text_completions_take_token_ids(http: httpx.Client, model: Any) -> None:
    prompt = chat(http, return_token_ids=True, max_tokens=1)["prompt_token_ids"]
    body = {"model": NAME, "prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 0}
    answer = http.post("/v1/completions", json=body | {"return_token_ids": True, "ignore_eos": True}).json()
    choice = answer["choices"][0]
    assert choice["prompt_token_ids"] == prompt
    assert len(choice["token_ids"]) == 6
    computed = expected(model, prompt, choice["token_ids"])
    torch.testing.assert_close(
        torch.tensor(choice["logprobs"]["token_logprobs"]), computed, atol=1e-3, rtol=0
    )


def test_stops_and_limits_end_an_answer(http: httpx.Client) -> None:
    whole = chat(http, temperature=0, tools=None, return_token_ids=True, max_tokens=30)["choices"][0]
    short = chat(http, temperature=0, tools=None, max_tokens=3, return_token_ids=True)["choices"][0]
    assert short["finish_reason"] == "length"
    assert short["token_ids"] == whole["token_ids"][:3]
    text = whole["message"]["content"]
    stopped = chat(http, temperature=0, tools=None, max_tokens=30, stop=[text[4:8]])["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["message"]["content"] == text[: text.index(text[4:8])]


def test_a_longer_conversation_is_the_same_with_and_without_what_was_kept_of_it(http: httpx.Client) -> None:
    """Prompts that begin alike are computed once; answers must not show it."""
    turns = [{"role": "user", "content": "1 + 2 * 3 - 4 + 5 * 6 - 7 + 8 * 9 " * 5}] * 2
    asked: Json = {"messages": turns, "tools": None, "temperature": 0, "max_tokens": 8, "logprobs": True}
    first, second = (chat(http, **asked)["choices"][0]["logprobs"]["content"] for _ in range(2))
    assert [entry["token"] for entry in first] == [entry["token"] for entry in second]
    assert [e["logprob"] for e in first] == pytest.approx([e["logprob"] for e in second], abs=1e-4)


def test_many_at_once_are_answered_each_with_its_own(http: httpx.Client, model: Any) -> None:
    def ask(number: int) -> Json:
        messages = [{"role": "user", "content": f"{number} + {number * 7} * 3"}]
        return chat(http, messages=messages, logprobs=True, return_token_ids=True, temperature=1.0)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(32)))
    for answer in answers:
        choice = answer["choices"][0]
        computed = expected(model, answer["prompt_token_ids"], choice["token_ids"])
        reported = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
        torch.testing.assert_close(reported, computed, atol=1e-3, rtol=0)


def test_names_and_models(http: httpx.Client) -> None:
    (listed,) = http.get("/v1/models").json()["data"]
    assert (listed["id"], listed["max_model_len"]) == (NAME, 512)
    assert chat(http, model="calculator", max_tokens=1)["model"] == NAME
    missing = http.post("/v1/chat/completions", json={"model": "calculator@9", "messages": QUESTION})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert http.get("/health").status_code == 200
    assert http.get("/nowhere").status_code == 404


def test_tokenize_gives_the_prompt(http: httpx.Client) -> None:
    prompt = chat(http, tools=None, return_token_ids=True, max_tokens=1)["prompt_token_ids"]
    answer = http.post("/tokenize", json={"model": NAME, "messages": QUESTION}).json()
    assert answer["tokens"] == prompt
    assert answer["count"] == len(prompt)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"not json", 400),
        (b"[1]", 400),
        (b"{}", 400),
        (json.dumps({"model": 5}).encode(), 400),
        (json.dumps({"model": NAME, "messages": []}).encode(), 400),
        (json.dumps({"model": NAME, "messages": QUESTION, "temperature": -1}).encode(), 400),
        (json.dumps({"model": NAME, "messages": QUESTION, "max_tokens": 100_000}).encode(), 400),
        (b" " * (8 * 1024 * 1024 + 1), 413),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_bodies_get_an_error_object(http: httpx.Client, content: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_client_that_hangs_up_takes_nobody_down(http: httpx.Client) -> None:
    body = {"model": NAME, "prompt": [5, 6], "max_tokens": 400, "ignore_eos": True, "stream": True}
    for _ in range(4):
        with http.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
    assert chat(http, max_tokens=1)["model"] == NAME
