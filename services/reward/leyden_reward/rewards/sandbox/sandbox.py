"""Starts sandboxes: one process a job, with nothing of ours in its environment, killed at the deadline."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from leyden_reward import metrics
from leyden_reward.rewards.sandbox.settings import SandboxSettings

log = structlog.get_logger(__name__)
INSIDE = Path(__file__).with_name("inside.py")
PROGRAMS = {name: INSIDE.with_name(f"{name}.py").read_text() for name in ("plans", "running")}
"""What runs within, as text: who gave up root's rights may not be able to read our files."""
_WALL_FOLD, _LEAST_WALL_S = 4.0, 10.0
_START_S = 30.0
_MOST_BYTES = 4 * 1024 * 1024
_SYSTEM_PYTHON = Path("/usr/bin/python3")


class SandboxFailed(Exception):
    """The code was not run to its end for a reason that is ours, not its own; the text says what to do."""


class TestsFault(Exception):
    """The tests of a job cannot tell right code from wrong; the text says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """Code, and pieces of tests that are run with it; ``stop_early`` after the first that fails."""

    code: str
    pieces: tuple[str, ...]
    cpu_s: float
    memory_mb: int
    stop_early: bool = True
    entry_point: str | None = None

    @property
    def wall_s(self) -> float:
        """When code that does not compute, but waits, is ended."""
        return max(_WALL_FOLD * self.cpu_s, _LEAST_WALL_S)


class Sandbox:
    """Runs jobs, ``settings.count`` at once."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._room = asyncio.Semaphore(settings.count)
        self._warned = False

    async def run(self, job: Job) -> list[dict[str, Any]]:
        """What each piece came to: ``cases``, pairs of a name and a problem or None, or one ``problem``.

        Raises ``SandboxFailed`` and ``TestsFault``.
        """
        async with self._room:
            with tempfile.TemporaryDirectory(prefix="leyden-sandbox-", ignore_cleanup_errors=True) as folder:
                report = _read(await self._output(job, folder))
        if not report["isolated"]:
            metrics.SANDBOX_OPEN.inc()
            self._warn()
            if self._settings.require_isolation:
                raise SandboxFailed(
                    "the kernel grants no namespaces here; allow unprivileged user namespaces, or set "
                    "LEYDEN_REWARD_SANDBOX_REQUIRE_ISOLATION=false"
                )
        if report["fault"] is not None:
            raise TestsFault(report["fault"])
        pieces: list[dict[str, Any]] = report["pieces"]
        if any("starved" in piece for piece in pieces):
            raise SandboxFailed("the machine is too busy to run tests; lower LEYDEN_REWARD_SANDBOX_COUNT")
        if not pieces:
            raise SandboxFailed("the sandbox ended without a result")
        return pieces

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "sandbox_not_isolated", remedy="allow unprivileged user namespaces; see docs/reward.md"
            )

    async def _output(self, job: Job, folder: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            interpreter(self._settings.python),
            "-I",
            str(INSIDE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(job.wall_s + _START_S):
                output, _ = await process.communicate(self._order(job))
        except TimeoutError:
            raise SandboxFailed("the sandbox took too long to start or to end") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return output[:_MOST_BYTES]

    def _order(self, job: Job) -> bytes:
        order = {
            "code": job.code,
            "pieces": job.pieces,
            "cpu_s": job.cpu_s,
            "wall_s": job.wall_s,
            "memory_mb": job.memory_mb,
            "stop_early": job.stop_early,
            "entry_point": job.entry_point,
            **PROGRAMS,
            "require_isolation": self._settings.require_isolation,
        }
        return json.dumps(order).encode()


def interpreter(chosen: str | None) -> str:
    """The Python that runs the code: as root, one that the user it gives way to can read.

    Raises ``SandboxFailed`` when there is none.
    """
    if chosen is not None:
        return chosen
    ours = Path(sys.base_prefix)
    if os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in (ours, *ours.parents)):
        return sys.executable
    if _SYSTEM_PYTHON.exists():
        return str(_SYSTEM_PYTHON)
    raise SandboxFailed(
        f"{ours} is readable by root alone, which agents' code never runs as; name another Python in "
        "LEYDEN_REWARD_SANDBOX_PYTHON, or run the service as another user"
    )


def _read(output: bytes) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError:
        raise SandboxFailed(
            "the sandbox ended without a result; does LEYDEN_REWARD_SANDBOX_PYTHON run?"
        ) from None
    return report
