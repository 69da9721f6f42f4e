"""Agents' code in the sandbox: what it is worth, and what it cannot reach or outlast."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leyden_platform.testing.rollouts import make_task, make_trajectory
from leyden_reward.rewards.sandbox import inside
from leyden_reward.rewards.sandbox.python_tests import PythonTestsReward, summary
from leyden_reward.rewards.sandbox.sandbox import INSIDE, PROGRAMS, Sandbox, SandboxFailed, interpreter
from leyden_reward.rewards.sandbox.settings import SandboxSettings
from leyden_reward.rewards.verdict import Graded, Reason, Refused
from leyden_schemas import RewardSpec

ADD = "```python\ndef add(a, b):\n    return a + b\n```"
UNITTEST = """
import unittest

class Adds(unittest.TestCase):
    def test_two(self):
        self.assertEqual(add(1, 2), 3)

    def test_wrong(self):
        self.assertEqual(add(1, 2), 4)

def test_function():
    assert add(0, 0) == 0
"""


async def value(code: Any, tests: Any, **params: Any) -> tuple[float, str]:
    """The reward and the feedback for code under tests."""
    spec = RewardSpec(name="python_tests", params={"cpu_s": 1.0, "memory_mb": 256, "tests": tests, **params})
    trajectory = make_trajectory(task=make_task(reward=spec), output=code)
    judged = await PythonTestsReward(Sandbox(SandboxSettings())).grade(trajectory)
    assert isinstance(judged, Graded), judged
    (term,) = judged.terms
    return term.value, term.feedback or ""


async def test_code_that_passes_is_worth_one() -> None:
    assert await value(ADD, ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]) == (1.0, "")


async def test_code_that_fails_is_worth_nothing_and_told_why() -> None:
    worth, feedback = await value(ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4, 'sum'"])
    assert worth == 0.0
    assert feedback == "tests.py: AssertionError: sum (tests.py:1)"


async def test_test_cases_and_test_functions_are_found_and_may_count_in_part() -> None:
    worth, feedback = await value(ADD, UNITTEST, partial=True)
    assert worth == pytest.approx(2 / 3)
    assert "test_wrong" in feedback
    assert "3 != 4" in feedback
    assert (await value(ADD, UNITTEST))[0] == 0.0


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def add(a, b) return", "SyntaxError"),
        ("import os; os._exit(0)", "ended its process"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ('print(\'{"word": 1, "cases": []}\'); import os; os._exit(0)', "ended its process"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("while True: pass", "computing time"),
        ("open('big', 'wb').write(b'x' * 10**8)", "OSError"),
        ("raise BaseException('no')", "BaseException: no"),
        (None, "NameError"),
    ],
)
async def test_code_that_misbehaves_is_worth_nothing(code: str | None, problem: str) -> None:
    worth, feedback = await value(code, ["assert add(1, 2) == 3"])
    assert worth == 0.0
    assert problem in feedback


async def test_code_that_sleeps_is_ended() -> None:
    worth, feedback = await value("import time; time.sleep(1000)", ["assert True"], cpu_s=0.5)
    assert (worth, feedback) == (0.0, "tests.py: it did not end")


async def test_children_do_not_outlive_the_tests() -> None:
    mark = f"leyden-{os.getpid()}-{time.monotonic_ns()}"
    spawn = f"""
import os, subprocess
subprocess.Popen(["/bin/sh", "-c", "sleep 1000; : {mark}"], start_new_session=True)
"""
    assert (await value(spawn, ["assert True"]))[0] == 1.0
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    assert mark not in listed


async def test_code_sees_no_network_no_secrets_and_not_our_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_JUDGE_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        peeks = [
            f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)",
            f"open('/proc/{os.getpid()}/environ').read()",
            f"import os; os.kill({os.getpid()}, 0)",
        ]
        for peek in peeks:
            worth, feedback = await value("", [peek])
            assert (worth, "Error" in feedback) == (0.0, True), (peek, feedback)
    assert (await value("import os", ["assert 'secret' not in str(os.environ)"]))[0] == 1.0
    assert (await value("import os", ["assert os.getuid() != 0 or os.name != 'posix'"]))[0] == 1.0


async def test_one_piece_cannot_use_up_more_than_all_have() -> None:
    began = time.monotonic()
    worth, feedback = await value("def spin():\n    while True: pass", ["spin()"] * 50, partial=True)
    assert worth == 0.0
    assert feedback.count("used up") == 50
    assert time.monotonic() - began < 60


async def test_tests_that_are_none_exclude() -> None:
    spec = RewardSpec(name="python_tests")
    trajectory = make_trajectory(task=make_task(reward=spec, reference={"no": "tests"}), output="x = 1")
    judged = await PythonTestsReward(Sandbox(SandboxSettings())).grade(trajectory)
    assert isinstance(judged, Refused)
    assert judged.reason is Reason.PARAMS


async def test_a_python_that_does_not_run_excludes() -> None:
    sandbox = PythonTestsReward(Sandbox(SandboxSettings(python="/nowhere/python")))
    spec = RewardSpec(name="python_tests", params={"tests": "pass"})
    judged = await sandbox.grade(make_trajectory(task=make_task(reward=spec), output="x = 1"))
    assert isinstance(judged, Refused)
    assert judged.reason is Reason.SANDBOX_UNAVAILABLE


def test_what_was_not_run_counts_as_failed() -> None:
    ran: list[dict[str, Any]] = [{"cases": [["a", None], ["b", "wrong"]]}, {"problem": "it did not end"}]
    assert summary(ran, 4) == (1 / 5, "b: wrong\ntests.py: it did not end")
    assert summary([{"cases": [["a", None]]}], 1) == (1.0, None)


def test_a_result_counts_only_with_its_word() -> None:
    forged = b'{"word": "guessed", "cases": [["a", null]]}'
    assert inside.told(forged, "drawn", False, 0) == {
        "problem": "it ended its process before the end of the tests"
    }
    assert inside.told(forged.replace(b"guessed", b"drawn"), "drawn", False, 0) == {"cases": [["a", None]]}


@pytest.mark.parametrize(
    ("program", "starved"),
    [
        ("while True: pass", True),
        ("import time; time.sleep(1000)", False),
        ("import time\nwhile time.process_time() < 0.3: pass\ntime.sleep(1000)", False),
    ],
)
def test_who_still_computes_when_the_clock_ends_it_was_kept_waiting(program: str, starved: bool) -> None:
    source, sink = os.pipe()
    with (
        os.fdopen(sink, "wb"),
        os.fdopen(source, "rb", buffering=0) as pipe,
        subprocess.Popen([sys.executable, "-c", program]) as child,
    ):
        found = inside.watched(pipe, child.pid, 0.4, time.monotonic() + 4.0)
        child.kill()
    assert found == (b"", True, starved)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be taken on by root alone")
def test_an_ordinary_user_is_isolated_too() -> None:
    order = {
        "code": "import socket",
        "pieces": ["socket.create_connection(('127.0.0.1', 1), timeout=2)", "assert socket"],
        "cpu_s": 5, "wall_s": 20, "memory_mb": 256, "stop_early": False, "require_isolation": True,
        "entry_point": None, **PROGRAMS,
    }  # fmt: skip
    program = INSIDE.read_text()
    done = subprocess.run(
        [interpreter(None), "-I", "-c", program],
        input=json.dumps(order).encode(), capture_output=True, user=65533, cwd="/", timeout=60, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    if not report["isolated"]:
        assert report["pieces"] == []
        pytest.skip("this kernel grants ordinary users no namespaces")
    refused, passed = report["pieces"]
    assert "unreachable" in refused["cases"][0][1]
    assert passed == {"cases": [["tests.py", None]]}


def test_as_root_an_interpreter_of_roots_own_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert interpreter("/opt/python") == "/opt/python"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert interpreter(None) == sys.executable
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr("leyden_reward.rewards.sandbox.sandbox._SYSTEM_PYTHON", tmp_path / "none")
    with pytest.raises(SandboxFailed, match="LEYDEN_REWARD_SANDBOX_PYTHON"):
        interpreter(None)
