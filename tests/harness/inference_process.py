"""The inference service as a process, over either engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from leyden_local.ports import free_ports

REPOSITORY = Path(__file__).parents[2]
SEED = REPOSITORY / "examples" / "calculator" / "seed"
VLLM = os.environ.get("LEYDEN_TEST_VLLM")
"""The program ``vllm``, when suites run against it too."""
ENGINES = ["torch", *(["vllm"] if VLLM else [])]
START_TIMEOUT_S = 400.0


def engine_environment(engine: str, **vllm: object) -> dict[str, str]:
    """Settings that choose an engine; vLLM in fp32 and without compiling, as small as it goes."""
    if engine == "torch":
        return {"LEYDEN_INFERENCE_ENGINE": "torch"}
    parser = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    chosen: dict[str, object] = {
        "COMMAND": [VLLM, "serve"],
        "ARGS": ["--enforce-eager", "--dtype", "float32", *parser],
        "ENV": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        "START_TIMEOUT_S": START_TIMEOUT_S,
        **vllm,
    }
    prefix = "LEYDEN_INFERENCE_VLLM__"
    return {"LEYDEN_INFERENCE_ENGINE": "vllm"} | {
        prefix + name: value if isinstance(value, str) else json.dumps(value)
        for name, value in chosen.items()
    }


@contextlib.contextmanager
def running_inference(log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Its base URL while it runs; it and all it started are gone afterwards."""
    port, ops = free_ports(2)
    own = {name: value for name, value in os.environ.items() if not name.startswith("LEYDEN_INFERENCE")}
    addresses = {
        "LEYDEN_INFERENCE_HOST": "127.0.0.1",
        "LEYDEN_INFERENCE_PORT": str(port),
        "LEYDEN_OPS_HOST": "127.0.0.1",
        "LEYDEN_OPS_PORT": str(ops),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "leyden_inference"],
            env=own | addresses | dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _until_ready(process, f"http://127.0.0.1:{ops}/readyz", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


def _until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.2)
