"""What happens to processes that die, to starts that fail and to folders that are to be deleted."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest

from leyden_local import stack, supervisor
from leyden_local.backoff import MAX_CRASHES, STEADY_S, Backoff
from leyden_local.config import StackConfig
from leyden_local.plan import ProcessSpec, Stage
from leyden_local.state import Endpoints, Phase, ProcessState, StackFolder, StackState
from leyden_local.supervisor import Child, StackFailed, Supervisor

NOWHERE = Endpoints(kafka="", database="", gateway="", registry="", inference="")
DEAD = 2**22 + 1


def spec(program: str, name: str = "runner") -> ProcessSpec:
    return ProcessSpec(name, Stage.SERVICES, [sys.executable, "-c", program])


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(spec("print('these are the last words'); raise SystemExit(7)"), tmp_path / "runner.log")
    yield made
    made.kill()


def ended(child: Child) -> None:
    assert child.process is not None
    child.process.wait(timeout=30)


def test_waits_double_up_to_ten_seconds_and_then_it_gives_up() -> None:
    backoff = Backoff()
    assert [backoff.crashed(1.0) for _ in range(MAX_CRASHES)] == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert backoff.crashed(1.0) is None


def test_a_minute_up_ends_a_series_of_crashes() -> None:
    backoff = Backoff()
    assert [backoff.crashed(0.0) for _ in range(3)] == [0.5, 1.0, 2.0]
    assert [backoff.crashed(STEADY_S), backoff.crashed(0.0)] == [0.5, 1.0]


def test_a_process_that_runs_is_left_alone(tmp_path: Path) -> None:
    child = Child(spec("input()"), tmp_path / "log")
    assert not child.revive()
    child = Child(spec("import time; time.sleep(60)"), tmp_path / "log")
    child.start()
    assert (child.revive(), child.restarts) == (False, 0)
    child.kill()


def test_a_process_that_died_is_restarted_after_its_wait(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    child.start()
    ended(child)
    assert (child.revive(), child.restarts) == (False, 0)
    now += 0.4
    assert (child.revive(), child.restarts) == (False, 0)
    now += 0.2
    assert (child.revive(), child.restarts) == (True, 1)


def test_a_process_that_keeps_dying_is_left_down_with_its_last_words(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "crashed", lambda _self, _up_s: None)
    child.start()
    ended(child)
    assert child.revive()
    assert child.failed is not None
    assert "status 7" in child.failed
    assert "these are the last words" in child.failed
    assert not child.revive()


def test_status_shows_why_a_process_was_left_down() -> None:
    processes = {"runner": ProcessState(pid=DEAD, ops_port=1, failed="failed with status 7, left down")}
    state = StackState(pid=DEAD, created=0, phase=Phase.RUNNING, endpoints=NOWHERE, processes=processes)
    assert stack.readiness(state) == {"runner": "failed with status 7, left down"}


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor of one harmless process."""
    monkeypatch.setattr(supervisor, "plan", lambda *_: [spec("import time; time.sleep(60)")])
    monkeypatch.setattr(supervisor, "database_folder", lambda folder: folder.directory / "postgres")
    return Supervisor(StackConfig(directory=tmp_path / "stack"))


def test_any_error_stops_everything_and_is_reported(
    bare: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_and_break() -> None:
        bare.children[0].start()
        raise OSError("no space left on device")

    monkeypatch.setattr(bare, "_start", start_and_break)
    with pytest.raises(OSError, match="no space left"):
        bare.run()
    assert bare.children[0].exit_status == -signal.SIGTERM
    state = bare.folder.read()
    assert state is not None
    assert (state.phase, state.error) == (Phase.FAILED, "OSError: no space left on device")
    died = state.model_copy(update={"pid": DEAD})
    bare.folder.write(died)
    assert stack.last_error(bare.folder.directory) == "OSError: no space left on device"


def test_only_the_folder_of_a_stack_is_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StackFailed, match=r"holds no stack\.json"):
        stack.remove(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    stack.remove(tmp_path / "nothing")


@pytest.mark.parametrize(("name", "removed"), [("leyden-postgres-abc", True), ("precious", False)])
def test_only_a_database_of_ours_is_removed(
    name: str, removed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    database, folder = tmp_path / name, StackFolder(tmp_path / "stack")
    database.mkdir()
    folder.create()
    folder.config.write_text("{}")
    folder.database.write_text(str(database))
    stack.remove(folder.directory)
    assert not folder.directory.exists()
    assert database.exists() is not removed


def test_a_second_start_waits_for_the_first_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StackConfig(directory=tmp_path, start_timeout_s=0.1)
    folder = StackFolder(tmp_path)
    folder.create()
    folder.config.write_text("the first one's")
    monkeypatch.setattr(stack, "GRACE_S", 0.0)
    with filelock.FileLock(folder.starting), pytest.raises(StackFailed, match="still starting"):
        stack.start(config, detached=True)
    assert folder.config.read_text() == "the first one's"
    assert os.listdir(folder.logs) == []  # noqa: PTH208
