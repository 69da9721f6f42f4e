"""The reasoning example's agent: what it sends and returns. `make test-smollm2` tests its tasks."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from reasoning import agent

QUESTION = "State the final answer to the following arithmetic problem: 4 - 7 + 2 ="


class Server(HTTPServer):
    """An OpenAI-compatible server that answers `` -1`` and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, body))
        choice = {"index": 0, "text": " -1", "finish_reason": "stop", "logprobs": None}
        answer = {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keeps the test output clean."""


def test_it_asks_once_without_an_example_and_returns_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        monkeypatch.setenv("OPENAI_MODEL", "reasoning@3")
        Thread(target=server.handle_request, daemon=True).start()
        assert agent.solve({"question": QUESTION}) == "-1"
    assert server.seen == [
        (
            "/v1/completions",
            {
                "model": "reasoning@3",
                "prompt": "Question: 4 - 7 + 2\nAnswer:",
                "max_tokens": agent.MAX_TOKENS,
                "stop": ["\n"],
            },
        )
    ]


def test_an_expression_alone_is_a_question_too() -> None:
    assert agent.expression(QUESTION) == "4 - 7 + 2"
    assert agent.expression("4 - 7") == "4 - 7"
