"""Runners as processes that are killed, frozen and stopped: every rollout still ends exactly once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runner_harness import Bench, bench, running, until

from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import Outcome

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
LEASE = {"lease_s": 2.0, "heartbeat_s": 0.5}
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
async def stand(kafka: KafkaSettings, database: DatabaseSettings, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(kafka, database, tmp_path) as made:
        yield made


@pytest.fixture
def spawn(stand: Bench) -> Iterator[Spawn]:
    started: list[subprocess.Popen[bytes]] = []

    def start(**changes: Any) -> "subprocess.Popen[bytes]":
        started.append(stand.process(**{**LEASE, **changes}))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


class Held:
    """A task whose agent runs until it is released, and which notes every attempt's process."""

    def __init__(self, stand: Bench, task_id: str) -> None:
        self.release = stand.folder / f"{task_id}.release"
        self.log = stand.folder / f"{task_id}.log"
        self.task = stand.task(
            task_id=task_id, agent="hold", input={"until": str(self.release), "log": str(self.log)}
        )

    def attempts(self) -> list[tuple[int, int]]:
        """Attempt number and process id of each start."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    async def started(self, times: int) -> None:
        """Wait until the agent was started so often."""
        await until(lambda: len(self.attempts()) == times, f"start {times} of the agent")


async def ended(process: "subprocess.Popen[bytes]") -> int:
    return await asyncio.to_thread(process.wait, 30)


async def test_kill_9_loses_nothing(stand: Bench, spawn: Spawn) -> None:
    held = Held(stand, "crash")
    first = spawn()
    await stand.send(held.task)
    await held.started(1)
    first.kill()
    await ended(first)
    await until(lambda: not psutil.pid_exists(held.attempts()[0][1]), "the end of the orphaned agent")
    spawn()
    await held.started(2)
    held.release.touch()
    event = await stand.outcome("crash")
    assert (event.attempt, event.outcome, event.output) == (2, Outcome.SUCCEEDED, "released")
    lost, last = stand.finished_of("crash")
    assert (lost.attempt, lost.outcome, lost.final) == (1, Outcome.INFRASTRUCTURE_FAILED, False)
    assert "stopped renewing its lease" in (lost.error or "")
    assert last == event
    rows = await stand.ledger("SELECT attempt, outcome FROM runner.attempts ORDER BY attempt")
    assert [tuple(row) for row in rows] == [(1, "infrastructure_failed"), (2, "succeeded")]


async def test_a_frozen_runner_is_fenced(stand: Bench, spawn: Spawn) -> None:
    held = Held(stand, "frozen")
    frozen = spawn()
    await stand.send(held.task)
    await held.started(1)
    frozen.send_signal(signal.SIGSTOP)
    spawn()
    await held.started(2)
    held.release.touch()
    event = await stand.outcome("frozen")
    frozen.send_signal(signal.SIGCONT)
    frozen.send_signal(signal.SIGTERM)
    assert await ended(frozen) == 0
    assert (event.attempt, event.outcome) == (2, Outcome.SUCCEEDED)
    assert [(e.attempt, e.final) for e in stand.finished_of("frozen")] == [(1, False), (2, True)]


async def test_sigterm_lets_agents_end(stand: Bench, spawn: Spawn) -> None:
    held = Held(stand, "ends")
    stopped = spawn(drain_timeout_s=25)
    await stand.send(held.task)
    await held.started(1)
    stopped.send_signal(signal.SIGTERM)
    held.release.touch()
    assert await ended(stopped) == 0
    event = await stand.outcome("ends")
    assert (event.attempt, event.outcome) == (1, Outcome.SUCCEEDED)


async def test_sigterm_gives_back_what_does_not_end(stand: Bench, spawn: Spawn) -> None:
    held = Held(stand, "given-back")
    stopped = spawn(lease_s=60.0, drain_timeout_s=6)
    await stand.send(held.task)
    await held.started(1)
    stopped.send_signal(signal.SIGTERM)
    assert await ended(stopped) == 0
    began = time.monotonic()
    assert not psutil.pid_exists(held.attempts()[0][1])
    spawn(lease_s=60.0)
    await held.started(2)
    assert time.monotonic() - began < 30, "the lease was given back, not left to expire"
    held.release.touch()
    event = await stand.outcome("given-back")
    assert (event.attempt, event.outcome) == (2, Outcome.SUCCEEDED)
    (row,) = await stand.ledger("SELECT failures FROM runner.rollouts")
    assert row["failures"] == 0
    first = stand.finished_of("given-back")[0]
    assert (first.final, first.error) == (False, "the runner is shutting down")


async def test_two_runners_that_both_get_everything_make_it_once(stand: Bench) -> None:
    held = Held(stand, "shared")
    one, other = (stand.settings(**LEASE, group=f"{stand.unique}-{name}") for name in ("a", "b"))
    async with running(one), running(other):
        await stand.send(held.task)
        for index in range(6):
            await stand.send(stand.task(task_id=f"also-{index}"))
        for index in range(6):
            await stand.outcome(f"also-{index}")
        await held.started(1)
        held.release.touch()
        await stand.outcome("shared")
    assert held.attempts() == [(1, held.attempts()[0][1])]
    (row,) = await stand.ledger("SELECT count(*), max(attempt) FROM runner.attempts")
    assert tuple(row) == (7, 1)


async def test_a_runner_without_agents_says_so() -> None:
    environment = {**os.environ, "LEYDEN_RUNNER_AGENTS": "{}", "LEYDEN_TOKEN_SECRET": "x" * 32}
    broken = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "leyden_runner", env=environment, stderr=subprocess.PIPE
    )
    _, errors = await broken.communicate()
    assert broken.returncode == 2
    assert b"name at least one agent" in errors
