"""Real processes: every way in which an agent can end, and that nothing of it is left afterwards."""

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from leyden_runner.executors.base import Bounds, Execution
from leyden_runner.executors.callable import CallableExecutor
from leyden_runner.executors.command import CommandExecutor, printed
from leyden_runner.executors.launcher import AgentsUnusable, Launcher, Tail
from leyden_runner.outcome import (
    Exited,
    Killed,
    NotExecuted,
    OutOfTime,
    Raised,
    Returned,
    Unusable,
    judge,
)
from leyden_schemas import Limits, Outcome, Task

BOUNDS = Bounds(max_output_bytes=100_000, log_tail_bytes=1_000, kill_grace_s=0.2)


def task(timeout_s: float = 20.0) -> Task:
    return Task(task_id="t", input={"x": 1}, policy="p", limits=Limits(timeout_s=timeout_s))


async def call(launcher: Launcher, name: str, timeout_s: float = 20.0) -> Execution:
    executor = CallableExecutor(launcher, f"runner_test_agents:{name}", {"BASE": "1"}, BOUNDS)
    return await executor.execute(task(timeout_s), {"LEYDEN_ROLLOUT_ID": "r"})


async def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.02)
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("name", ["echo", "slow_echo"])
async def test_sync_and_async_functions_return_their_output(launcher: Launcher, name: str) -> None:
    execution = await call(launcher, name)
    assert execution.ending == Returned({"x": 1})
    assert execution.own_s is not None
    assert 0 <= execution.own_s <= execution.duration_s


async def test_the_environment_is_the_rollouts_own(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_TOKEN_SECRET", "x" * 32)
    execution = await call(launcher, "environment")
    assert isinstance(execution.ending, Returned)
    seen = execution.ending.output
    assert seen["LEYDEN_ROLLOUT_ID"] == "r"
    assert seen["BASE"] == "1"
    assert "LEYDEN_TOKEN_SECRET" not in seen


async def test_what_is_raised_is_the_agents_failure_and_its_log_is_kept(launcher: Launcher) -> None:
    execution = await call(launcher, "raises")
    assert isinstance(execution.ending, Raised)
    assert execution.ending.text == "ValueError: no good: 1"
    assert execution.log_tail.startswith("about to fail\nTraceback")
    assert judge(execution.ending).outcome is Outcome.AGENT_FAILED


async def test_an_unreachable_model_is_recognised_behind_another_error(launcher: Launcher) -> None:
    execution = await call(launcher, "unreachable")
    assert judge(execution.ending).outcome is Outcome.INFRASTRUCTURE_FAILED


@pytest.mark.parametrize("name", ["hangs", "stubborn"])
async def test_the_deadline_kills(launcher: Launcher, name: str) -> None:
    execution = await call(launcher, name, timeout_s=0.3)
    assert execution.ending == OutOfTime(0.3)
    assert execution.duration_s < 3


async def test_an_agent_that_kills_itself(launcher: Launcher) -> None:
    assert (await call(launcher, "kills_itself")).ending == Killed(9)
    assert (await call(launcher, "exits")).ending == Exited(3)
    assert (await call(launcher, "system_exit")).ending == Exited(4)
    assert (await call(launcher, "echo")).ending == Returned({"x": 1})


async def test_results_that_cannot_be_taken(launcher: Launcher) -> None:
    for name, text in (("unserialisable", "not JSON serializable"), ("enormous", "the limit is 100000")):
        execution = await call(launcher, name)
        assert isinstance(execution.ending, Raised)
        assert text in execution.ending.text


async def test_what_no_message_can_hold_is_mended_or_the_agents_failure(launcher: Launcher) -> None:
    assert (await call(launcher, "half_a_character")).ending == Returned({"said": "?"})
    raised = (await call(launcher, "raises_half_a_character")).ending
    assert isinstance(raised, Raised)
    assert raised.text.startswith("ValueError: ?")
    bottomless = (await call(launcher, "bottomless")).ending
    assert isinstance(bottomless, Unusable)
    assert "recursion limit" in bottomless.text


async def test_garbage_on_the_output_disturbs_nothing(launcher: Launcher) -> None:
    execution = await call(launcher, "garbage")
    assert execution.ending == Returned("fine")
    assert execution.log_tail.endswith("the end")
    assert len(execution.log_tail) <= 1_000
    assert "\x00" not in execution.log_tail


@pytest.mark.parametrize("name", ["leaves_children", "leaves_a_daemon"])
async def test_nothing_outlives_an_attempt(launcher: Launcher, name: str) -> None:
    execution = await call(launcher, name)
    assert isinstance(execution.ending, Returned)
    assert execution.ending.output
    for pid in execution.ending.output:
        assert await gone(pid)


async def test_cancelling_kills_the_agent(launcher: Launcher) -> None:
    running = asyncio.create_task(call(launcher, "hangs"))
    await call(launcher, "echo")
    children = psutil.Process(launcher.pid).children()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(children) == 1
    assert await gone(children[0].pid)


async def test_attempts_run_at_once_and_apart(launcher: Launcher) -> None:
    names = ["slow_echo", "raises", "kills_itself", "garbage", "exits"] * 6
    executions = await asyncio.gather(*(call(launcher, name) for name in names))
    good = [e for name, e in zip(names, executions, strict=True) if name == "slow_echo"]
    assert [execution.ending for execution in good] == [Returned({"x": 1})] * 6


async def test_a_killed_zygote_is_replaced(launcher: Launcher) -> None:
    running = asyncio.create_task(call(launcher, "hangs"))
    await call(launcher, "echo")
    first = launcher.pid
    execution = await call(launcher, "kills_the_zygote")
    assert isinstance(execution.ending, NotExecuted)
    assert isinstance((await running).ending, NotExecuted)
    assert (await call(launcher, "echo")).ending == Returned({"x": 1})
    assert launcher.pid != first


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("runner_test_agents:nobody", "has no attribute 'nobody'"),
        ("runner_test_agents:not_a_function", "is not callable"),
        ("no_such_module:solve", "No module named 'no_such_module'"),
    ],
)
async def test_agents_that_cannot_be_loaded_fail_the_start(catalogue: Path, target: str, text: str) -> None:
    launcher = Launcher([target], path=[str(catalogue)], env=dict(os.environ), start_timeout_s=20)
    with pytest.raises(AgentsUnusable, match=text):
        await launcher.run(asyncio.Event())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_is_left_open(launcher: Launcher) -> None:
    await call(launcher, "echo")
    before = open_descriptors()
    for name in ("echo", "raises", "kills_itself", "garbage"):
        await call(launcher, name)
    assert open_descriptors() == before


async def command(launcher: Launcher, script: str, timeout_s: float = 20.0) -> Execution:
    executor = CommandExecutor(launcher, ["sh", "-c", script], None, dict(os.environ), BOUNDS)
    return await executor.execute(task(timeout_s), {"LEYDEN_ROLLOUT_ID": "r"})


async def test_a_commands_last_line_is_its_output(launcher: Launcher) -> None:
    execution = await command(launcher, "echo thinking; echo on the side >&2; echo '{\"answer\": 7}'")
    assert execution.ending == Returned({"answer": 7})
    assert execution.log_tail == "on the side\n"


async def test_a_command_reads_its_task_without_the_reference(launcher: Launcher) -> None:
    execution = await command(launcher, "cat")
    assert isinstance(execution.ending, Returned)
    assert execution.ending.output["input"] == {"x": 1}
    assert "reference" not in execution.ending.output


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 3", Outcome.AGENT_FAILED),
        ("kill -9 $$", Outcome.AGENT_FAILED),
        ("exit 75", Outcome.INFRASTRUCTURE_FAILED),
        ("no-such-program-here", Outcome.INFRASTRUCTURE_FAILED),
    ],
)
async def test_a_command_that_fails(launcher: Launcher, script: str, outcome: Outcome) -> None:
    assert judge((await command(launcher, script)).ending).outcome is outcome


async def test_a_command_that_hangs(launcher: Launcher) -> None:
    assert (await command(launcher, "sleep 600 & sleep 600", timeout_s=0.3)).ending == OutOfTime(0.3)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("7\n", 7),
        ("a\nb\n", "a\nb"),
        ("", ""),
        ('x\n["y"]', ["y"]),
        ("NaN", "NaN"),
        ('"\\ud83d"', "?"),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: str(value)[:9],
)
def test_what_was_printed(text: str, output: object) -> None:
    assert printed(text) == Returned(output)


def test_a_cut_output_is_taken_only_when_its_last_line_is_json() -> None:
    assert printed("…x\n7", truncated=True) == Returned(7)
    assert isinstance(printed("…x", truncated=True), Unusable)


def test_a_tail_keeps_the_last_bytes() -> None:
    tail = Tail(4)
    for chunk in (b"abc", b"def", b"x" * 200_000, b"ghij"):
        tail.add(chunk)
    assert bytes(tail) == b"ghij"
    assert tail.seen == 200_010
    assert tail.truncated
    assert bytes(Tail(0)) == b""
