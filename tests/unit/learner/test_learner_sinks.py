"""Sinks of step metrics, read back with their own libraries; and that none of them can hold up training."""

import multiprocessing
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from prometheus_client import REGISTRY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from leyden_learner import sinks
from leyden_learner.settings import LearnerSettings
from leyden_learner.sinks import SinkMissing, Sinks, open_sinks
from leyden_learner.sinks.background import BackgroundSink
from leyden_learner.sinks.base import Point

PATIENCE_S = 100.0
BLOCK, FULL, LAST = 32 * 1024, 1, 4


def settings(folder: Path, *names: str, **changes: Any) -> LearnerSettings:
    """Everything in one folder."""
    defaults: dict[str, Any] = {
        "policy": "tiny",
        "run": "first",
        "sinks": list(names),
        "tensorboard_dir": folder / "tb",
        "wandb_mode": "offline",
        "wandb_dir": folder / "wandb",
        "mlflow_uri": f"sqlite:///{folder}/mlflow.db",
    }
    return LearnerSettings(**(defaults | changes))


BEFORE = [
    (1, {"reward_mean": 0.25, "rollouts": 4.0, "loss": float("nan")}),
    (2, {"reward_mean": 0.5, "rollouts": 4.0}),
]
AFTER = [(2, {"reward_mean": 0.5, "rollouts": 4.0}), (3, {"reward_mean": 0.75, "rollouts": 4.0})]


def tell(settings: LearnerSettings, points: list[tuple[int, dict[str, float]]]) -> None:
    """What a learner tells its sinks; one that resumes at a step tells that step again."""
    sinks = open_sinks(settings)
    for index, (step, measured) in enumerate(points):
        sinks.offer(step, measured, again=index == 0 and step > 1)
    sinks.close(PATIENCE_S)


def run_twice(settings: LearnerSettings) -> None:
    """A learner of two steps, and another that resumes and makes a third."""
    tell(settings, BEFORE)
    tell(settings, AFTER)


EXPECTED = [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    run_twice(settings(tmp_path, "tensorboard"))
    events = EventAccumulator(str(tmp_path / "tb" / "tiny" / "first")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("reward_mean")] == EXPECTED
    assert "loss" not in events.Tags()["scalars"]


def test_mlflow_shows_each_step_once_in_one_run(tmp_path: Path) -> None:
    places = {"registry_url": "http://me:secret@registry:8002", "servers": ["http://me:secret@vllm:8001/a@b"]}
    run_twice(settings(tmp_path, "mlflow", **places))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("leyden")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "reward_mean")
    assert [(each.step, each.value) for each in history] == EXPECTED
    assert (run.info.run_name, run.info.status) == ("tiny/first", "FINISHED")
    assert run.data.params["lr"] == "1e-06"
    assert not any("database" in name or "kafka" in name for name in run.data.params)
    assert run.data.params["registry_url"] == "http://registry:8002"
    assert run.data.params["servers"] == "['http://vllm:8001/a@b']"


def records(file: Path) -> Iterator[Record]:
    """What an offline W&B file holds: LevelDB's log format behind a header of 7 bytes."""
    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(file: Path) -> list[tuple[int, float]]:
    """The rows of history in an offline W&B file."""
    rows = []
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            values = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
            rows.append((record.history.step.num, float(values["reward_mean"])))
    return rows


def test_wandb_shows_each_step_once_in_one_run(tmp_path: Path) -> None:
    # Processes and folders of their own, because wandb tells its runs in a process apart by id and second.
    for name, points in (("one", BEFORE), ("two", AFTER)):
        target = settings(tmp_path, "wandb", wandb_dir=tmp_path / name), points
        process = multiprocessing.get_context("spawn").Process(target=tell, args=target)
        process.start()
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    files = sorted(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    rows = sorted(row for file in files for row in history(file))
    assert rows == EXPECTED
    assert len({file.stem for file in files}) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_an_error_that_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda _name: None)
    with pytest.raises(SinkMissing, match=rf"pip install 'leyden\[{name}\]'"):
        open_sinks(settings(tmp_path, name))


def counted(policy: str, result: str) -> float:
    """Points of the sink ``fake``."""
    labels = {"policy": policy, "sink": "fake", "result": result}
    return REGISTRY.get_sample_value("leyden_learner_sink_points_total", labels) or 0.0


class Fake:
    """A sink that does what a test says, and remembers the steps that it showed."""

    def __init__(self, act: Callable[[int], object] = lambda _step: None) -> None:
        self.act, self.opened, self.steps = act, list[int](), list[int]()

    def open(self, first_step: int) -> "Fake":
        self.opened.append(first_step)
        return self

    def write(self, point: Point) -> None:
        self.act(point.step)
        self.steps.append(point.step)

    def close(self) -> None:
        pass


def test_a_slow_sink_holds_up_nothing_and_what_it_cannot_take_is_counted() -> None:
    policy, go_on = uuid4().hex, threading.Event()
    fake = Fake(lambda _step: go_on.wait(PATIENCE_S))
    slow = Sinks([BackgroundSink("fake", policy, fake.open, capacity=3)])
    started_s = time.monotonic()
    for step in range(100):
        slow.offer(step, {"loss": 1.0})
    slow.close(timeout_s=0.1)
    assert time.monotonic() - started_s < PATIENCE_S / 2
    # One may be in its hands, three in the queue; those were waited for in vain.
    assert 99 <= counted(policy, "dropped") <= 100
    go_on.set()


def test_a_broken_sink_is_opened_anew_and_what_it_lost_is_counted() -> None:
    policy = uuid4().hex

    def fail(step: int) -> None:
        if step in (2, 3):
            raise ConnectionError("no answer")

    fake = Fake(fail)
    broken = Sinks([BackgroundSink("fake", policy, fake.open)])
    for step in range(1, 6):
        broken.offer(step, {"loss": 1.0})
    broken.close(PATIENCE_S)
    assert fake.steps == [1, 4, 5]
    assert fake.opened == [1, 3, 4]
    assert (counted(policy, "written"), counted(policy, "failed")) == (3, 2)
