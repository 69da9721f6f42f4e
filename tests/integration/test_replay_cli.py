"""``leyden replay`` as a person or a job runs it: a process of its own, against a broker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_task
from leyden_schemas import EventMessage, Topics

pytestmark = pytest.mark.kafka
TIMEOUT_S = 90.0
USER_CODE = """
import time

def quick(trajectory):
    return float(trajectory.output == "4")

def slow(trajectory):
    open(trajectory.task.reward.params["told"], "a").close()
    time.sleep(600)
"""


class Command:
    """The command with everything but its options."""

    def __init__(self, kafka: KafkaSettings, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEYDEN_")},
            "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent).lower(),
            "COLUMNS": "200",
        }

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Run it with these options."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "leyden.cli",
                "replay",
                "--run",
                self.run,
                "--path",
                str(self.folder),
                *options,
            ],
            env=self._environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *options: str) -> tuple[int, str, str]:
        """Its exit status and what it printed."""
        process = self.start(*options)
        output, errors = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output, errors


@pytest.fixture
async def command(kafka: KafkaSettings, tmp_path: Path) -> AsyncIterator[Command]:
    """Two groups of two of a run of its own are on the log."""
    (tmp_path / "command_rewards.py").write_text(USER_CODE)
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    command = Command(kafka, tmp_path, f"run-{uuid4().hex[:8]}")
    for _ in range(2):
        group_id = uuid4()
        for index in range(2):
            rollout = Rollout(task=make_task(samples=2), group_id=group_id, index=index)
            events: list[EventMessage] = [
                rollout.started(),
                rollout.completion(),
                rollout.finished("45"[index]),
            ]
            await publisher.publish(*(event.model_copy(update={"run": command.run}) for event in events))
    yield command
    await publisher.stop()


async def test_it_replays_reports_and_says_where(command: Command) -> None:
    name = f"again-{uuid4().hex[:8]}"
    status, output, errors = command(
        "--into", name, "--reward", "command_rewards:quick", "--estimator", "rloo"
    )
    assert status == 0, errors
    folder = command.folder / "reports" / f"replay-{name}"
    assert "4 rollouts scored again, 4 samples; no live rewards to compare with" in output
    assert f"reports/replay-{name}" in output
    found = json.loads((folder / "replay.json").read_text())
    assert found["counts"]["rollouts"] == 4
    assert found["written"] == {"trajectories": 4, "samples": 4}
    assert found["estimators"] == {"rloo": 4}
    assert all(by.startswith("command_rewards:quick#") for by in found["scored_by"])
    assert (folder / "report.html").exists()
    status, output, errors = command("--into", name, "--reward", "exact_match")
    assert (status, "choose another" in errors) == (1, True)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--reward", "no_module:f"], 1, "no_module"),
        (["--from", "0:99999999"], 2, "ends at"),
        (["--policy", "nobody"], 1, "of other tenants, runs or policies"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    command: Command, options: list[str], status: int, said: str
) -> None:
    got, _, errors = command("--dry-run", *options)
    assert (got, said in " ".join(errors.replace("│", " ").split())) == (status, True), errors
    assert "Traceback" not in errors


def test_ctrl_c_ends_it_in_order(command: Command) -> None:
    told = command.folder / "told"
    process = command.start(
        "--dry-run", "--reward", "command_rewards:slow", "--params", json.dumps({"told": str(told)})
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not told.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
