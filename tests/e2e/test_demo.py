"""The demo from outside: a short training run makes the agent better at tasks it never saw, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from stack_harness import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS = 14


def test_a_short_demo_trains_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leyden.cli", "demo", "--steps", str(STEPS), "--reports", str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=850, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == STEPS
    assert summary["final_version"] == STEPS
    for evaluation in summary["evaluations"]:
        assert (evaluation["trials"], evaluation["excluded"]) == (200, 0)
    before, after = (
        {e["mode"]: e["success"] for e in summary["evaluations"] if e["when"] == when}
        for when in ("before", "after")
    )
    assert 0.2 <= before["greedy"] <= 0.45
    assert 0.2 <= before["sampled"] <= 0.45
    assert after["greedy"] > 0.6
    assert after["sampled"] > 0.5
    assert summary["peak_memory_mb"] < 5000
    assert (folder / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert "Held-out success" in (folder / "report.html").read_text()
    assert "Held-out success" in result.stdout
    for stage in ("evaluate before, greedy", "train", "evaluate after, sampled"):
        assert stage in result.stdout


def test_a_demo_that_does_not_improve_fails_with_a_sentence_adapters_in_bf16_too(
    tmp_path: Path,
) -> None:
    command = [
        *(sys.executable, "-m", "leyden.cli", "demo", "--steps", "1", "--heldout", "24"),
        *("--reports", str(tmp_path), "--set", "LEYDEN_LEARNER_LR=1e-9"),
        *("--set", "LEYDEN_LEARNER_LORA_RANK=4", "--set", "LEYDEN_LEARNER_PRECISION=bf16"),
        *("--set", "LEYDEN_INFERENCE_PRECISION=bf16", "--set", "LEYDEN_LEARNER_PUBLISH=adapter"),
    ]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=850, check=False)
    assert result.returncode == 1
    assert "the agent did not improve" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.glob("*/summary.json"))
