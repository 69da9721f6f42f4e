"""The calculator example: its tasks, its tool, its reward and what the seed model's files promise."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessageParam

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from calculator import agent, reward, tasks

EXAMPLE = Path(agent.__file__).parent
SEED = EXAMPLE / "seed"
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(SEED)


def prompt_ids(tokenizer: Any, messages: Sequence[ChatCompletionMessageParam | dict[str, Any]]) -> list[int]:
    text = tokenizer.apply_chat_template(
        messages, tools=[agent.CALCULATOR], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer.encode(text)
    return ids


def call_message(a: int, op: str, b: int, *, as_text: bool = True) -> dict[str, Any]:
    arguments: Any = {"a": a, "op": op, "b": b}
    function = {"name": "calculator", "arguments": json.dumps(arguments) if as_text else arguments}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def said(a: int, op: str, b: int) -> str:
    arguments = json.dumps({"a": a, "op": op, "b": b})
    return f'<tool_call>\n{{"name": "calculator", "arguments": {arguments}}}\n</tool_call><|im_end|>'


# --- tasks


def test_a_question_has_one_split_whatever_the_seed() -> None:
    train = {task["question"] for seed in range(3) for task in tasks.generate(2000, split="train", seed=seed)}
    held_out = {
        task["question"] for seed in range(3) for task in tasks.generate(500, split="heldout", seed=seed)
    }
    assert len(train) > 5000
    assert not train & held_out
    assert {tasks.split_of(question) for question in held_out} == {"heldout"}


def test_tasks_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (list(tasks.generate(50, split="train", seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_no_question_comes_twice() -> None:
    questions = [task["question"] for task in tasks.generate(3000, split="heldout")]
    assert len(set(questions)) == 3000


def test_answers_follow_precedence() -> None:
    for task in tasks.generate(300, split="heldout"):
        assert str(eval(task["question"], {"__builtins__": {}})) == task["answer"]


def test_asking_for_more_tasks_than_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        next(tasks.generate(10**6, split="train"))


def test_working_left_to_right_fails_on_most_tasks() -> None:
    def left_to_right_is_right(problem: tasks.Problem) -> bool:
        answers = [
            tasks.work_out(problem, right_first=choice)[-1] for choice in (False, problem["right_first"])
        ]
        return answers[0] == answers[1]

    share = sum(map(left_to_right_is_right, islice(tasks.problems("heldout", 0), 1000))) / 1000
    assert 0.33 < share < 0.42


# --- reward


@pytest.mark.parametrize("answer", ["-163", " -163\n", "-163.", "-163.0"])
def test_the_right_number_scores_one(answer: str) -> None:
    assert reward.score(answer, "-163") == 1.0


@pytest.mark.parametrize("answer", ["", "163", "-16", "-163 or 5", "the answer", "nan", "inf", "--163", "²"])
def test_anything_else_scores_zero(answer: str) -> None:
    assert reward.score(answer, "-163") == 0.0


def test_thousands_may_be_separated() -> None:
    assert reward.score("1,234", "1234") == 1.0


# --- the tool


@pytest.mark.parametrize(
    ("op", "result"), [("+", "8"), ("-", "4"), ("*", "12"), ("/", "3")], ids=["add", "sub", "mul", "div"]
)
def test_the_calculator_applies_one_operation(op: str, result: str) -> None:
    assert agent.call_tool("calculator", json.dumps({"a": 6, "op": op, "b": 2})) == result


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{", "must be JSON"),
        ("[1]", "must be an object"),
        ('{"a": 1, "op": "+"}', "must be integers"),
        ('{"a": true, "op": "+", "b": 1}', "must be integers"),
        ('{"a": "1", "op": "+", "b": 1}', "must be integers"),
        ('{"a": 1.5, "op": "+", "b": 1}', "must be integers"),
        ('{"a": 1, "op": "^", "b": 1}', "must be one of"),
        ('{"a": 1, "op": ["+"], "b": 1}', "must be one of"),
        ('{"a": 7, "op": "/", "b": 2}', "not a whole number"),
        ('{"a": 7, "op": "/", "b": 0}', "not a whole number"),
    ],
)
def test_a_bad_call_becomes_an_error_text(arguments: str, complaint: str) -> None:
    answer = agent.call_tool("calculator", arguments)
    assert answer.startswith("error: ")
    assert complaint in answer


def test_an_unknown_tool_becomes_an_error_text() -> None:
    assert agent.call_tool("search", "{}").startswith("error: there is no tool 'search'")


# --- the agent


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server that says these messages, the last one for ever."""

    def __init__(self, replies: Sequence[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = replies
        self.requests: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        requests, replies = self.server.requests, self.server.replies
        requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        message = {"role": "assistant", "content": None, **replies[min(len(requests), len(replies)) - 1]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keeps the test output clean."""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, *replies: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Points the agent at a server and yields the requests that it makes there."""
    server = Server(replies)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    try:
        yield server.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def test_the_agent_runs_tools_and_returns_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(
        monkeypatch, call_message(4, "*", 5), call_message(3, "+", 20), {"content": "23"}
    ) as requests:
        assert agent.solve({"question": "3 + 4 * 5"}) == "23"
    assert [len(request["messages"]) for request in requests] == [2, 4, 6]
    contents = [message.get("content") for message in requests[-1]["messages"]]
    assert contents == [agent.SYSTEM, "3 + 4 * 5", None, "20", None, "23"]
    assert requests[0]["model"] == "calculator"
    assert "temperature" not in requests[0]


def test_the_agent_gives_up_after_its_last_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, call_message(1, "/", 0)) as requests:
        assert agent.solve({"question": "1 / 0"}) == ""
    assert len(requests) == agent.MAX_TURNS
    assert requests[-1]["messages"][-1]["content"] == "error: 1 / 0 is not a whole number"


# --- the seed model's files


def test_digits_and_markers_are_single_tokens(tokenizer: Any) -> None:
    assert tokenizer.tokenize("120-7") == ["1", "2", "0", "-", "7"]
    for text in ("<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"):
        assert len(tokenizer.encode(text)) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_tool_markers_survive_decoding_and_turn_markers_do_not(tokenizer: Any) -> None:
    decoded = tokenizer.decode(tokenizer.encode(said(1, "+", 2)), skip_special_tokens=True)
    assert decoded == said(1, "+", 2).removesuffix("<|im_end|>")


@pytest.mark.parametrize("text", ["12 + 3 * 4", "Grüße, 世界 🙂\n\n  tab\t", '{"a": -12}'])
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("as_text", [True, False], ids=["arguments as text", "arguments as an object"])
def test_a_later_prompt_starts_with_the_earlier_one_and_what_was_sampled(
    tokenizer: Any, as_text: bool
) -> None:
    messages: list[Any] = [
        {"role": "system", "content": agent.SYSTEM},
        {"role": "user", "content": "3 - 40 * 5"},
    ]
    for a, op, b, result in [(40, "*", 5, "200"), (3, "-", 200, "-197"), (-197, "/", 0, "error: no")]:
        so_far = prompt_ids(tokenizer, messages) + tokenizer.encode(said(a, op, b))
        messages += [
            call_message(a, op, b, as_text=as_text),
            {"role": "tool", "tool_call_id": "c", "content": result},
        ]
        assert prompt_ids(tokenizer, messages)[: len(so_far)] == so_far


@pytest.mark.parametrize("content", ["-197", "\n5 ", "I think", '<tool_call>\n{"a": 01', ""])
def test_a_spoken_turn_is_repeated_as_it_was(tokenizer: Any, content: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    so_far = prompt_ids(tokenizer, messages) + tokenizer.encode(content + "<|im_end|>")
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": "again"}]
    assert prompt_ids(tokenizer, messages)[: len(so_far)] == so_far


def test_the_prompt_carries_the_tools_of_the_client(tokenizer: Any) -> None:
    other = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tools=[other], tokenize=False)
    assert '{"name": "look_up", "parameters": {"type": "object"}}' in text
    assert "calculator" not in text


def test_prompts_are_short(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": agent.SYSTEM}, {"role": "user", "content": "20 * (20 + 20)"}]
    assert len(prompt_ids(tokenizer, messages)) <= 60
    assert len(tokenizer.encode(said(20, "*", 400))) <= 20


def test_the_seed_is_small_and_samples_plainly() -> None:
    assert sum(file.stat().st_size for file in SEED.iterdir()) <= 8 * 1024 * 1024
    sampling = json.loads((SEED / "generation_config.json").read_text())
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (1.0, 1.0, 0)


def test_the_seed_carries_the_template_beside_it() -> None:
    template = (EXAMPLE / "chat_template.jinja").read_text()
    assert (SEED / "chat_template.jinja").read_text() == template


def test_the_seed_is_laid_out_as_vllm_reads_it() -> None:
    """The architecture and fields it looks up, and tool calls in the form of its ``hermes`` parser."""
    config = json.loads((SEED / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["model_type"] == "qwen3"
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0
    assert config["head_dim"] % 32 == 0
    assert {"max_position_embeddings", "rms_norm_eps", "rope_parameters", "vocab_size"} <= config.keys()
    template = (SEED / "chat_template.jinja").read_text()
    call = template[template.index("<tool_call>") : template.index("</tool_call>")]
    assert call.index('"name"') < call.index('"arguments"')
