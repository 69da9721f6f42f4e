"""The scripts that run inside image builds and containers, which see no environment of ours."""

import importlib.util
import re
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load(name: str) -> ModuleType:
    """A script of deploy/docker as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_extras_of_extras_are_followed_and_listed_once() -> None:
    """``leyden[a,b]`` inside an extra stands for what those extras need."""
    project = {
        "dependencies": ["httpx>=0.28"],
        "optional-dependencies": {
            "a": ["x>=1"],
            "b": ["leyden[a]", "y[fast]>=2"],
            "c": ["leyden[a, b]", "httpx>=0.28"],
        },
    }
    assert load("requirements").requirements(project, "c") == ["httpx>=0.28", "x>=1", "y[fast]>=2"]


def test_an_unknown_extra_is_an_error(project: dict[str, Any]) -> None:
    """A typing error in the Dockerfile must not build an image without dependencies."""
    with pytest.raises(KeyError):
        load("requirements").requirements(project, "gatewya")


def test_every_target_of_the_dockerfile_installs_an_extra_that_exists(project: dict[str, Any]) -> None:
    """And torch enters the two images that need it, no other."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    extras = re.findall(r"python requirements\.py (?:\"\$\{\w+:-)?(\w+)", dockerfile)
    needed = {extra: load("requirements").requirements(project, extra) for extra in extras}
    with_torch = {extra for extra, found in needed.items() if any(line.startswith("torch") for line in found)}
    assert with_torch == {"learner", "inference"}
    assert {*extras, "cli"} - {"replay"} == set(
        re.findall(r"^FROM runtime AS (\w+)", dockerfile, re.MULTILINE)
    )


class Answer(BaseHTTPRequestHandler):
    """Live but not ready."""

    def do_GET(self) -> None:
        """200 for /healthz, 503 with a reason for anything else."""
        alive = self.path == "/healthz"
        self.send_response(200 if alive else 503)
        self.end_headers()
        self.wfile.write(b"ok" if alive else b"not connected to Kafka")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Quiet."""


def test_the_health_check_says_why_a_container_is_not_healthy() -> None:
    """None for 2xx; else the status and the text of the answer, which ``docker inspect`` shows."""
    check = load("healthcheck").check
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert check("/healthz", server.server_port) is None
        assert check("/readyz", server.server_port) == "/readyz: 503 not connected to Kafka"
        server.shutdown()
        port = server.server_port
    assert "refused" in check("/healthz", port)
