"""The service as a process: it drains on SIGTERM, and says what is wrong when it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

SEED = Path(__file__).parents[2] / "examples" / "calculator" / "seed"
DEADLINE_S = 90.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(folder: Path, port: int) -> "subprocess.Popen[str]":
    """The service over one folder, without Kafka."""
    environment = {
        **os.environ,
        "LEYDEN_INFERENCE_MODELS": json.dumps([{"name": "calculator@0", "path": str(folder)}]),
        "LEYDEN_INFERENCE_FOLLOW": "false",
        "LEYDEN_INFERENCE_HOST": "127.0.0.1",
        "LEYDEN_INFERENCE_PORT": str(port),
        "LEYDEN_OPS_HOST": "127.0.0.1",
        "LEYDEN_OPS_PORT": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "leyden_inference"], env=environment, stderr=subprocess.PIPE, text=True
    )


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, "the service ended"
        assert time.monotonic() < deadline, "the service did not get there in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.timeout(240)
def test_sigterm_lets_running_completions_finish() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = {"model": "calculator@0", "prompt": [5, 6], "max_tokens": 90, "n": 60, "ignore_eos": True}
    process = start(SEED, port)
    try:
        until(lambda: answers(url), process)
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
            with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                last = pool.submit(lambda: [line for line in lines if line][-1]).result(DEADLINE_S)
            assert last == "data: [DONE]"
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.timeout(240)
def test_a_folder_that_cannot_be_served_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    process = start(tmp_path, free_port())
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "config.json" in errors
    assert "LoadFailed" in errors
