"""Starting processes on chosen cores, waiting until they answer, ending them."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden_local.supervisor import die_with_parent

BENCHMARKS = Path(__file__).parents[1]
_START_S = 90.0
_STOP_S = 20.0


class DidNotStart(Exception):
    """A process died or did not answer in time; the text holds the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the measured gateway has, and which the stub, the load generator and the broker share."""

    subject: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def of(cls, available: Sequence[int]) -> "Cores":
        """The first core for the subject, the second for everything else; one core has to do for both."""
        return cls(tuple(available[:1]), tuple(available[1:2] or available[:1]))

    def describe(self) -> str:
        """For the report."""
        others = "the same" if self.load == self.subject else _named(self.load)
        return f"gateway on {_named(self.subject)}; stub, load generator and broker on {others}"


def _named(cores: tuple[int, ...]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"


def allow_many_files() -> int:
    """Raise the limit on open files, for this process and its children, as far as allowed; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def spawned(
    command: Sequence[object],
    *,
    cores: tuple[int, ...],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process, with all it starts, on ``cores`` until the block ends; what it prints goes to ``log``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEYDEN_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**kept, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=prepared(cores),
        )
    try:
        yield process
    finally:
        _end(process)


def prepared(cores: tuple[int, ...]) -> Callable[[], None]:
    """What a child does before its program: keep to its cores, and end when the benchmark is killed."""
    die = die_with_parent(signal.SIGKILL)

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        if die:
            die()

    return prepare


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def module(name: str, *arguments: str) -> list[str]:
    """The command of one of our own programs."""
    return [sys.executable, "-m", f"gateway_bench.{name}", *arguments]


def own_environment() -> dict[str, str]:
    """What our own programs need to find their modules."""
    return {"PYTHONPATH": str(BENCHMARKS)}


def await_answer(
    process: "subprocess.Popen[bytes]", log: Path, probe: Callable[[], bool], timeout_s: float = _START_S
) -> None:
    """Return when ``probe`` holds. Raises ``DidNotStart``."""
    deadline = time.monotonic() + timeout_s
    while not probe():
        if process.poll() is not None:
            raise DidNotStart(f"exited with {process.returncode}: {tail(log)}")
        if time.monotonic() > deadline:
            raise DidNotStart(f"did not answer within {timeout_s:g} s: {tail(log)}")
        time.sleep(0.05)


def tail(log: Path, characters: int = 600) -> str:
    """The end of what a process printed."""
    return log.read_text(errors="replace")[-characters:].strip() or "it printed nothing"


def http(
    url: str, body: bytes | None = None, *, token: str | None = None, timeout_s: float = 20.0
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower-case names) and body of a request; status 0 when nothing answered."""
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read()
    except OSError:
        return 0, {}, b""


def post_json(url: str, value: Any) -> None:
    """Post ``value``. Raises ``DidNotStart`` unless it is accepted."""
    status, _, body = http(url, json.dumps(value).encode())
    if status not in (200, 201):
        raise DidNotStart(f"{url} answered {status}: {body[:200]!r}")
