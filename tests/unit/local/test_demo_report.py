"""What a demo run leaves behind: its summary and a report that needs nothing else."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import psutil
import pytest
from rich.console import Console

from leyden_local.demo import report
from leyden_local.demo.campaign import Evaluation
from leyden_local.demo.log import DemoFailed
from leyden_local.demo.options import RUN, DemoOptions
from leyden_local.demo.progress import Progress
from leyden_local.demo.run import resident_bytes
from leyden_local.demo.statistics import Rate
from leyden_local.demo.summary import CurvePoint, EvaluationResult, Summary, summarise
from leyden_local.demo.tally import Tally
from leyden_schemas import ModelPublished

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def evaluations(before: int = 40, after: int = 90, *, excluded: int = 0) -> list[EvaluationResult]:
    """Of a hundred tasks each, greedy and sampled."""
    return [
        EvaluationResult.of(when, Evaluation(version, temperature, Rate(successes, 100 - excluded), excluded))
        for when, version, successes in (("before", 0, before), ("after", 2, after))
        for temperature in (0.0, 1.0)
    ]


def summary(**changes: Any) -> Summary:
    point = CurvePoint(step=1, version=1, seconds=0.0, reward=0.5, rollouts=48, metrics={"entropy": 0.25})
    values = {
        "policy": "calculator",
        "seed": 3,
        "options": {"steps": 2},
        "packages": {"leyden": "0.1.0"},
        "python": "3.11",
        "evaluations": evaluations(),
        "rollouts": 100,
        "samples": 96,
        "completions": 300,
        "tokens": 2500,
        "steps": 2,
        "final_version": 2,
        "curve": [point, point.model_copy(update={"step": 2, "version": 2, "reward": None, "metrics": {}})],
        "timings": {"train": 12.5},
        "peak_memory_mb": 1234.5,
    }
    return Summary.model_validate(values | changes)


@pytest.mark.parametrize(("after", "improved"), [(90, True), (45, False), (20, False)])
def test_better_means_intervals_that_do_not_overlap(after: int, improved: bool) -> None:
    assert summary(evaluations=evaluations(40, after)).improved is improved


def test_better_means_greedy_and_sampled() -> None:
    better, same = evaluations(40, 90), evaluations(40, 40)
    assert not summary(evaluations=[*better[:3], same[3]]).improved


def test_the_report_is_complete_and_needs_nothing_else(tmp_path: Path) -> None:
    written, folder = summary(), tmp_path / "reports" / "demo"
    report.prepare(folder)
    report.write(written, folder)
    read = (folder / "summary.json").read_bytes()
    assert json.loads(read)["improved"] is True
    assert Summary.model_validate_json(read) == written
    assert (folder / "reward.png").read_bytes().startswith(b"\x89PNG")
    html = (folder / "report.html").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "reward.png", "summary.json"]
    assert re.findall(r"""(?:src|href)\s*=(?!\s*["']?data:)""", html) == []
    assert re.findall(r"https?://|@import|url\(", html) == []
    assert "The agent improved on tasks it never saw." in html
    assert "90.0 % [" in html


def test_excluded_rollouts_are_shown(tmp_path: Path) -> None:
    written = summary(evaluations=evaluations(excluded=7))
    report.prepare(tmp_path)
    report.write(written, tmp_path)
    assert "7 / 7" in (tmp_path / "report.html").read_text()
    printed = io.StringIO()
    Console(width=160, file=printed).print(report.table(written))
    assert "7 / 7" in printed.getvalue()


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DemoFailed, match=r"cannot be written to .*; choose --reports"):
        report.prepare(tmp_path / "file" / "demo")


def test_a_report_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="could not be written"):
        report.write(summary(), tmp_path / "missing")


def test_only_an_empty_report_is_discarded(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used):
        report.prepare(folder)
    (used / "summary.json").touch()
    for folder in (empty, used):
        report.discard(folder)
    assert (empty.exists(), used.exists()) == (False, True)


def published(step: int, reward: float) -> ModelPublished:
    return ModelPublished(
        run=RUN,
        event_id=UUID(int=step),
        policy="calculator",
        version=step,
        occurred_at=NOW + timedelta(seconds=10 * step),
        artifact="file:///x",
        digest="d",
        step=step,
        metrics={"reward_mean": reward, "entropy": 1, "note": "not a number"},
    )


def test_a_run_is_summarised(tmp_path: Path) -> None:
    tally = Tally(RUN, "calculator", completions=30, tokens=300)
    tally.accepted.update(UUID(int=i) for i in range(4))
    tally.rewards_by_version[1] = [1.0, 0.0, 0.0, 0.0]
    for model in (published(2, 0.75), published(1, 0.5)):
        tally.take(model)
    found = summarise(DemoOptions(examples=tmp_path, seed=5), evaluations(), tally, {"train": 1.0}, 100.0)
    assert (found.seed, found.steps, found.final_version) == (5, 2, 2)
    assert (found.samples, found.completions, found.tokens) == (4, 30, 300)
    assert [(p.step, p.version, p.seconds) for p in found.curve] == [(1, 1, 0.0), (2, 2, 10.0)]
    assert [(p.reward, p.rollouts) for p in found.curve] == [(0.25, 4), (None, 0)]
    assert found.curve[1].metrics == {"reward_mean": 0.75, "entropy": 1.0}
    assert not {"examples", "reports"} & found.options.keys(), "no path of the machine"


def test_memory_is_what_the_system_can_tell() -> None:
    def process(**memory: int) -> psutil.Process:
        return cast("psutil.Process", SimpleNamespace(memory_full_info=lambda: SimpleNamespace(**memory)))

    assert resident_bytes(process(rss=9, uss=5, pss=7)) == 7
    assert resident_bytes(process(rss=9, uss=5)) == 5
    assert resident_bytes(process(rss=9)) == 9


async def test_progress_counts_the_time_of_every_stage() -> None:
    progress = Progress(Console(quiet=True), 2)
    progress.stage("train")
    progress.stage("done")
    assert list(progress.timings) == ["starting", "train"]
