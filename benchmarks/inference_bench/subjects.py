"""What is measured: the built-in engine, the service over vLLM, and vLLM alone, as users start them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from leyden_local.ports import free_ports

ROOT = Path(__file__).parents[2]
NAME = "calculator@0"
START_TIMEOUT_S = 600.0
SUBJECTS = ("torch", "leyden-vllm", "vllm")


class SubjectFailed(RuntimeError):
    """A subject did not start; the text has the end of its log."""


@contextlib.contextmanager
def serving(subject: str, vllm: Path, model: Path, log: Path) -> Iterator[tuple[str, int]]:
    """The subject's base URL and process while it runs."""
    (port,) = free_ports(1)
    if subject == "vllm":
        command = [str(vllm), "serve", str(model), "--port", str(port), "--host", "127.0.0.1"]
        command += ["--served-model-name", NAME, "--max-num-seqs", "128", "--disable-uvicorn-access-log"]
        command += _ARGUMENTS
        environment = os.environ | _VLLM
    else:
        command = [sys.executable, "-m", "leyden_inference"]
        environment = os.environ | _service(subject, port, vllm, model)
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _until_served(process, url, log)
        yield url, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """What a process and everything it started have computed so far."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


_ARGUMENTS = ["--enforce-eager", "--dtype", "float32"]
_VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def _service(subject: str, port: int, vllm: Path, model: Path) -> dict[str, str]:
    own = {
        "LEYDEN_INFERENCE_FOLLOW": "false",
        "LEYDEN_INFERENCE_MODELS": json.dumps([{"name": NAME, "path": str(model)}]),
        "LEYDEN_INFERENCE_HOST": "127.0.0.1",
        "LEYDEN_INFERENCE_PORT": str(port),
        "LEYDEN_INFERENCE_MAX_BATCH": "128",
        "LEYDEN_OPS_HOST": "127.0.0.1",
        "LEYDEN_OPS_PORT": "0",
        "LEYDEN_LOG_LEVEL": "WARNING",
    }
    if subject == "torch":
        return own
    return own | {
        "LEYDEN_INFERENCE_ENGINE": "vllm",
        "LEYDEN_INFERENCE_VLLM__COMMAND": json.dumps([str(vllm), "serve"]),
        "LEYDEN_INFERENCE_VLLM__ARGS": json.dumps(_ARGUMENTS),
        "LEYDEN_INFERENCE_VLLM__ENV": json.dumps(_VLLM),
    }


def _until_served(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SubjectFailed(f"it did not start:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/v1/models", timeout=5)
            if answer.status_code == 200 and answer.json()["data"]:
                return
        time.sleep(0.2)
