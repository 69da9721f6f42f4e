"""Agents that behave, and agents that do not, in a catalogue folder of their own."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden_runner.environment import inherited
from leyden_runner.executors.launcher import Launcher
from leyden_schemas import RolloutAssigned, Task

AGENTS = """
import asyncio, os, signal, subprocess, sys, time


def echo(task):
    return task


async def slow_echo(task):
    await asyncio.sleep(0.01)
    return task


def environment(task):
    return dict(os.environ)


def raises(task):
    print("about to fail")
    raise ValueError("no good: " + str(task["x"]))


class APIConnectionError(Exception):
    pass


APIConnectionError.__module__ = "openai"


def unreachable(task):
    try:
        raise APIConnectionError("Connection error.")
    except APIConnectionError as error:
        raise RuntimeError("the chain failed") from error


def hangs(task):
    print("hanging", flush=True)
    time.sleep(600)


def stubborn(task):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def kills_itself(task):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(task):
    os._exit(3)


def system_exit(task):
    sys.exit(4)


def unserialisable(task):
    return object()


def enormous(task):
    return "x" * 3_000_000


def half_a_character(task):
    return {"said": "\\ud83d"}


def raises_half_a_character(task):
    raise ValueError("\\ud83d")


def bottomless(task):
    value = 1
    for _ in range(300):
        value = [value]
    return value


def garbage(task):
    os.write(1, b"\\xff\\x00\\xfe" * 1_000_000)
    os.write(2, b"the end")
    return "fine"


def leaves_children(task):
    shells = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return [process.pid for process in [*shells, daemon]]


def leaves_a_daemon(task):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    return [int(os.read(read, 32))]


def kills_the_zygote(task):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


not_a_function = 3
"""


def names() -> list[str]:
    """The agents of the module."""
    lines = AGENTS.splitlines()
    return [
        line.partition("def ")[2].partition("(")[0]
        for line in lines
        if line.startswith(("def ", "async def "))
    ]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A folder with the module ``runner_test_agents``."""
    (tmp_path / "runner_test_agents.py").write_text(AGENTS)
    return tmp_path


@pytest.fixture
async def launcher(catalogue: Path) -> AsyncIterator[Launcher]:
    """A running launcher that has every agent imported."""
    launcher = Launcher(
        [f"runner_test_agents:{name}" for name in names()],
        path=[str(catalogue)],
        env=inherited(os.environ, ()),
        start_timeout_s=30,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(launcher.run(stop))
    yield launcher
    stop.set()
    await running


@pytest.fixture
def assigned() -> RolloutAssigned:
    """One rollout of a small task."""
    task = Task(task_id="t", input={"x": 1}, policy="calculator", reference="secret answer")
    return RolloutAssigned.fan_out(task)[0]
