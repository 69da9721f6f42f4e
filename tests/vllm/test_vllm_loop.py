"""The demo on vLLM: a short run makes the agent better at tasks it never saw, vLLM serving every version.

Run by ``make test-vllm``.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_process import REPOSITORY, VLLM, engine_environment

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(VLLM is None, reason="LEYDEN_TEST_VLLM does not name the program vllm"),
]

STEPS = 16


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where the stack keeps its files: not below pytest's folder, which Postgres' own user cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="leyden-vllm-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


ADAPTERS = {
    "LEYDEN_LEARNER_LORA_RANK": "16",
    "LEYDEN_LEARNER_PUBLISH": "adapter",
    "LEYDEN_LEARNER_LR": "5e-3",
}


@pytest.mark.parametrize("learner", [{}, ADAPTERS], ids=["weights", "adapters"])
def test_a_short_demo_trains_on_vllm(tmp_path: Path, open_folder: Path, learner: dict[str, str]) -> None:
    chosen = engine_environment("vllm", **({"MAX_LORAS": 2} if learner else {}))
    chosen |= {"LEYDEN_INFERENCE_POLICIES": '["calculator"]'} | learner
    settings = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    command = [
        *(sys.executable, "-m", "leyden.cli", "demo", "--steps", str(STEPS), "--heldout", "60"),
        *("--reports", str(tmp_path / "reports"), "--keep"),
        *settings,
    ]
    environment = {"TMPDIR": str(open_folder), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1400, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (report,) = (tmp_path / "reports").iterdir()
    summary = json.loads((report / "summary.json").read_text())
    assert summary["final_version"] == STEPS
    assert [evaluation["excluded"] for evaluation in summary["evaluations"]] == [0] * 4
    before, after = (
        {e["mode"]: e["success"] for e in summary["evaluations"] if e["when"] == when}
        for when in ("before", "after")
    )
    assert after["greedy"] > before["greedy"] + 0.1
    assert after["sampled"] > before["sampled"] + 0.1
    (log,) = open_folder.glob("leyden-demo-*/logs/inference.log")
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert "vllm_starting" in {event["event"] for event in events}
    loaded = [event["model"] for event in events if event["event"] == "version_swapped"]
    assert loaded[0] == "calculator@0"
    assert f"calculator@{STEPS}" in loaded
    assert len(loaded) >= STEPS // 2, "several versions were served, not only the last"
    assert "version_not_loaded" not in {event["event"] for event in events}
