"""Starting, finding and stopping a stack from outside: what the CLI and the demo call."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import httpx

from leyden_local.config import StackConfig
from leyden_local.state import Phase, ProcessState, StackFolder, StackState
from leyden_local.supervisor import DATABASE_PREFIX, STOP_TIMEOUT_S, StackFailed, die_with_parent

GRACE_S = 10.0
"""What a stack may take beyond its start timeout before whoever waits gives up."""


class NotRunning(RuntimeError):
    """No stack runs in the folder."""


def running(directory: Path) -> StackState | None:
    """The state of the stack in ``directory`` when its supervisor is alive."""
    state = StackFolder(directory).read()
    return state if state and state.alive else None


def last_error(directory: Path) -> str | None:
    """Why the last stack in ``directory`` failed; None when it did not, or a stack runs."""
    state = StackFolder(directory).read()
    return state.error if state and state.phase is Phase.FAILED and not state.alive else None


def start(
    config: StackConfig, *, detached: bool, on_change: Callable[[StackState], None] | None = None
) -> StackState:
    """Start the stack and wait until all of it is ready; a stack that runs already is returned as it is.

    ``detached`` stacks outlive this process; others end with it. Of two that start at once, the second waits
    for the first and returns its stack. Raises ``StackFailed``.
    """
    folder = StackFolder(config.directory)
    folder.create()
    try:
        with filelock.FileLock(folder.starting, timeout=config.start_timeout_s + GRACE_S):
            if running(config.directory):
                return _await_running(folder, None, config.start_timeout_s, on_change)
            return _start(config, folder, detached, on_change)
    except filelock.Timeout:
        raise StackFailed(f"another process is still starting the stack in {folder.directory}") from None


def _start(
    config: StackConfig,
    folder: StackFolder,
    detached: bool,
    on_change: Callable[[StackState], None] | None,
) -> StackState:
    folder.state.unlink(missing_ok=True)
    folder.config.write_text(config.model_dump_json(indent=1))
    with folder.log("supervisor").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "leyden_local.supervisor", str(folder.directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=None if detached else die_with_parent(signal.SIGTERM),
        )
    try:
        return _await_running(folder, supervisor, config.start_timeout_s + GRACE_S, on_change)
    except BaseException:
        supervisor.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(STOP_TIMEOUT_S * 2)
        raise


def _await_running(
    folder: StackFolder,
    supervisor: "subprocess.Popen[bytes] | None",
    timeout_s: float,
    on_change: Callable[[StackState], None] | None,
) -> StackState:
    deadline = time.monotonic() + timeout_s
    seen: StackState | None = None
    while time.monotonic() < deadline:
        state = folder.read()
        if state and state != seen:
            seen = state
            if on_change:
                on_change(state)
        if state and state.phase is Phase.RUNNING and state.alive:
            return state
        if supervisor and supervisor.poll() is not None:
            raise StackFailed(_why_not(folder, state))
        time.sleep(0.1)
    raise StackFailed(f"the stack was not ready within {timeout_s:g} s; see {folder.logs}")


def _why_not(folder: StackFolder, state: StackState | None) -> str:
    if state and state.error:
        return state.error
    lines = folder.log("supervisor").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the supervisor ended without a word; see {folder.logs}"


def stop(directory: Path, *, timeout_s: float = STOP_TIMEOUT_S * 2 + 5) -> None:
    """Stop the stack and wait until all of it is gone. Raises ``NotRunning`` or ``StackFailed``."""
    state = running(directory)
    if state is None:
        raise NotRunning(f"no stack runs in {directory}")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while state.alive:
        _reap(state.pid)
        if time.monotonic() > deadline:
            raise StackFailed(f"the stack in {directory} did not stop within {timeout_s:g} s")
        time.sleep(0.1)


def _reap(pid: int) -> None:
    """Collect the supervisor when it is our own child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def foreground(
    config: StackConfig, on_change: Callable[[StackState], None] | None = None
) -> Iterator[StackState]:
    """A stack that lives as long as the block, and no longer than this process."""
    state = start(config, detached=False, on_change=on_change)
    try:
        yield state
    finally:
        with contextlib.suppress(NotRunning):
            stop(config.directory)


def readiness(state: StackState) -> dict[str, str]:
    """Process name to ``ready``, ``up`` (no ops port), or why it cannot work."""
    return {name: _ready(process) for name, process in state.processes.items()}


def _ready(process: ProcessState) -> str:
    if process.failed:
        return process.failed
    if process.ops_port is None:
        return "up"
    try:
        body = httpx.get(f"http://127.0.0.1:{process.ops_port}/readyz", timeout=2).json()
    except (httpx.HTTPError, ValueError) as error:
        return f"not answering: {error}"
    return "ready" if body["ready"] else "; ".join(f"{k}: {v}" for k, v in body["waiting"].items())


def remove(directory: Path) -> None:
    """Delete the folder of a stack that does not run, its database included; no folder is nothing to do.

    Raises ``StackFailed`` for a folder that holds no stack.
    """
    folder = StackFolder(directory)
    if not folder.directory.exists():
        return
    if not (folder.config.exists() or folder.state.exists()):
        raise StackFailed(
            f"{directory} holds no stack.json, so it is not a stack's folder; nothing was deleted"
        )
    if folder.database.exists():
        database = Path(folder.database.read_text())
        if database.name.startswith(DATABASE_PREFIX) and database.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(database, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
