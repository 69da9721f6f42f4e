"""The programs that call the gateway with real client libraries, each in a process of its own."""

import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[1] / "programs"
DEADLINE_S = 60.0


class ClientRaised(Exception):
    """What a client library raised, as its program described it."""

    def __init__(self, described: dict[str, Any], seconds: float) -> None:
        super().__init__(described["message"])
        self.types: list[str] = described["types"]
        self.status, self.code, self.seconds = described["status"], described["code"], seconds


class ClientProgram:
    """One of ``programs/``, running in the clients' environment."""

    def __init__(self, name: str, log: Path) -> None:
        self._log = log
        self._answers: queue.Queue[str] = queue.Queue()
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [clients_python(), str(PROGRAMS / f"{name}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=quiet_environment(),
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def run(self, case: str, **arguments: Any) -> Any:
        """What the case returns. Raises ``ClientRaised`` with what it raised."""
        return self.run_in({}, case, **arguments)

    def run_in(self, environment: dict[str, str], case: str, **arguments: Any) -> Any:
        """The same, with these variables beside the program's own."""
        assert self._process.stdin is not None
        asked = {"case": case, "arguments": arguments, "environment": environment}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"{case} took longer than {DEADLINE_S:g} s: {self._tail()}") from None
        assert answer, f"the program ended: {self._tail()}"
        outcome = json.loads(answer)
        if "raised" in outcome:
            raise ClientRaised(outcome["raised"], outcome["seconds"])
        return outcome["value"]

    def _tail(self) -> str:
        return self._log.read_text()[-1500:]

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()


Programs = Callable[[str], ClientProgram]


def clients_python() -> str:
    """The interpreter that has the client libraries."""
    path = os.environ.get("LEYDEN_CLIENTS_PYTHON", "")
    if not Path(path).is_file():
        pytest.fail(
            f"LEYDEN_CLIENTS_PYTHON is {path!r}, which is no interpreter with the client libraries: "
            "run `make test-clients`, which makes their environment",
            pytrace=False,
        )
    return path


def quiet_environment() -> dict[str, str]:
    """The environment, without names of model servers and with the libraries' telemetry off."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "ANTHROPIC_"))
    }
    return kept | {
        "DSPY_CACHEDIR": os.devnull,
        "LANGSMITH_TRACING": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
