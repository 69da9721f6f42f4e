"""Starting and stopping: idempotent, with plain errors, and never an orphan."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from stack_harness import DEADLINE_S, REPOSITORY, config, send, tasks, watching

from leyden_local import stack
from leyden_local.state import StackFolder, StackState
from leyden_local.supervisor import StackFailed
from leyden_schemas import ModelPublished, Topics, Trajectory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def leyden(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "leyden.cli", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False
    )


def await_true(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for a condition or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)


def family(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_up_status_logs_down(tmp_path: Path) -> None:
    at = ["--dir", str(tmp_path / "stack")]
    processes: list[psutil.Process] = []
    try:
        first = leyden("up", *at, "--no-train")
        assert first.returncode == 0, first.stdout + first.stderr
        state = stack.running(tmp_path / "stack")
        assert state is not None
        again = leyden("up", *at)
        assert again.returncode == 0
        assert "already runs" in again.stdout
        now = stack.running(tmp_path / "stack")
        assert now is not None
        assert now.pid == state.pid, "nothing was started twice"
        status = leyden("status", *at)
        assert (status.returncode, "gateway" in status.stdout) == (0, True), status.stdout
        assert "service_started" in leyden("logs", "gateway", *at).stdout
        processes = family(state.pid)
    finally:
        down = leyden("down", *at, "--remove")
    assert (down.returncode, "Stopped." in down.stdout) == (0, True)
    assert all_gone(processes)
    assert not (tmp_path / "stack").exists()
    assert leyden("down", *at).returncode == 0
    assert leyden("status", *at).returncode == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signals are Linux's")
def test_kill_nine_of_the_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    directory = tmp_path / "stack"
    state = stack.start(config(directory, train=False), detached=True)
    processes = family(state.pid)
    assert len(processes) > 8
    os.kill(state.pid, signal.SIGKILL)
    await_true(lambda: all_gone(processes), "every process of the stack is gone")
    assert stack.running(directory) is None
    with stack.foreground(config(directory, train=False)) as after:
        assert after.pid != state.pid
    stack.remove(directory)


async def train_a_version(state: StackState, *, newer_than: int) -> int:
    """Publish tasks that name no id, see all of them executed, and wait for a version trained on them."""
    async with watching(state.endpoints.kafka, Topics.TRAJECTORIES.name, Topics.MODELS.name) as seen:

        def trained() -> list[int]:
            models = seen.of(ModelPublished)
            return [m.version for m in models if m.step is not None and m.version > newer_than]

        await send(state, *tasks("default", samples=8))
        await seen.until(lambda: len({t.rollout_id for t in seen.of(Trajectory)}) == 32, "32 rollouts")
        await seen.until(lambda: bool(trained()), f"a version after {newer_than}")
        return max(trained())


async def test_a_stack_started_again_goes_on_training(tmp_path: Path) -> None:
    """The broker forgets across a restart, the database and the checkpoints do not."""
    directory = tmp_path / "stack"
    with stack.foreground(config(directory)) as first:
        before = await train_a_version(first, newer_than=0)
    with stack.foreground(config(directory)) as second:
        assert await train_a_version(second, newer_than=before) > before
    stack.remove(directory)


def environment(process: psutil.Process) -> dict[str, str]:
    """What a process was started with; nothing for one that is gone or not ours to see."""
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def using(temporary: Path) -> list[psutil.Process]:
    """Every process with this temporary directory, whoever its parent is and whenever it started."""
    return [p for p in psutil.process_iter() if environment(p).get("TMPDIR") == str(temporary)]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary directory for a demo, which the unprivileged database can reach, deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="leyden-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_demo_leaves_no_orphan(signum: signal.Signals, temporary: Path) -> None:
    command = [sys.executable, "-m", "leyden.cli", "demo", "--reports", str(temporary / "reports")]
    demo = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_true(lambda: len(using(temporary)) > 5, "the stack is starting")
        demo.send_signal(signum)
        demo.wait(timeout=90)
        await_true(lambda: not using(temporary), "every process of the demo is gone", 90)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode != 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = leyden("up", "--dir", str(tmp_path / "stack"), "--gateway-port", str(port))
    assert result.returncode == 1
    assert f"port {port} is in use" in " ".join(result.stderr.split())
    assert stack.running(tmp_path / "stack") is None


def test_a_stack_that_cannot_start_says_why_and_cleans_up(tmp_path: Path) -> None:
    broken = config(tmp_path / "stack").model_copy(update={"rewards": {"calculator": "nowhere:reward"}})
    seen: list[StackState] = []
    with pytest.raises(StackFailed, match=r"(?s)reward exited with status 1 while starting.*nowhere"):
        stack.start(broken, detached=True, on_change=seen.append)
    pids = {process.pid for state in seen for process in state.processes.values()}
    await_true(lambda: not any(psutil.pid_exists(pid) for pid in pids), "its processes are gone")
    assert StackFolder(tmp_path / "stack").log("reward").exists()
    stack.remove(tmp_path / "stack")


def test_an_incomplete_model_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(StackFailed, match=r"tokenizer\.json"):
        stack.start(config(tmp_path / "stack").model_copy(update={"model": model}), detached=True)
    stack.remove(tmp_path / "stack")
