"""The arithmetic of the learner benchmark, its batches, and its command line on our own subjects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gateway_bench.measure import Measurement
from learner_bench.campaign import OURS_PACKED, OURS_PADDED, Found
from learner_bench.findings import (
    disagreements,
    measurements,
    model_flops_share,
    outside,
    pipeline,
    verdicts,
)
from learner_bench.job import Answer, Job
from learner_bench.workload import (
    RAGGED,
    UNIFORM,
    VOCABULARY,
    advantages,
    batch,
    describe,
    mask,
)

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "learner.py"


def measurement(subject: str, metric: str, value: float, case: str = "ragged") -> Measurement:
    return Measurement.of(subject, case, metric, "", [value])


def test_a_uniform_batch_has_one_length() -> None:
    told = describe(batch(UNIFORM, groups=2))
    assert (told.rollouts, told.tokens, told.sampled) == (8, 8 * 320, 8 * 256)
    assert (told.shortest, told.median, told.longest, told.padding) == (320, 320, 320, 1.0)


def test_a_ragged_batch_is_what_agents_make() -> None:
    """Several turns whose tokens are sampled, observations between them, and many lengths."""
    rollouts = batch(RAGGED, groups=25)
    told = describe(rollouts)
    assert told.padding > 2
    assert told.longest <= RAGGED.longest
    assert max(len(rollout.turns) for rollout in rollouts) > 4
    for rollout in rollouts:
        assert rollout.turns[0][0] > 0
        assert rollout.turns[-1][1] == len(rollout.token_ids)
        assert all(one[1] < other[0] for one, other in zip(rollout.turns, rollout.turns[1:], strict=False))
        assert 8 <= min(rollout.token_ids) <= max(rollout.token_ids) < VOCABULARY
    assert rollouts == batch(RAGGED, groups=25)
    assert rollouts != batch(RAGGED, groups=25, seed=1)


def test_rollouts_of_a_group_share_their_prompt_and_differ_in_reward() -> None:
    rollouts = batch(RAGGED, groups=3)
    for group in range(3):
        of_group = [rollout for rollout in rollouts if rollout.group == group]
        assert len({tuple(r.token_ids[: r.turns[0][0]]) for r in of_group}) == 1
        assert {rollout.reward for rollout in of_group} == {0.0, 1.0}
        assert sum(rollout.advantage for rollout in of_group) == pytest.approx(0, abs=1e-9)


def test_advantages_by_hand() -> None:
    """Mean 1/4, sample deviation 1/2."""
    assert advantages([1.0, 0.0, 0.0, 0.0], eps=0.0) == [1.5, -0.5, -0.5, -0.5]


def test_a_mask_marks_what_was_sampled() -> None:
    assert mask([(2, 4), (6, 7)], 2, 8) == [1, 1, 0, 0, 1, 0]


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    rollouts = batch(UNIFORM, groups=1)
    job = Job("model", rollouts, [[[0.5]]], True, 64, 1, "cpu", "fp32", 2, 1e-6, "scratch", 7)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


FOUND = Found(
    OURS_PACKED,
    "ragged",
    Answer(
        step_s=[10.0, 20.0],
        cpu_s=[5.0, 10.0],
        memory_bytes=3_000_000,
        grad_norm=0.5,
        stages_s={
            "decode": [0.5, 0.5],
            "batch": [0.25, 0.25],
            "passes": [9.0, 18.0],
            "checkpoint": [2.0, 4.5],
        },
    ),
    tokens=1000,
    parameters=10_000_000,
)


def test_shares_of_a_step_by_hand() -> None:
    """Batching is part of the step; decoding and the checkpoint are not."""
    assert pipeline(FOUND) == pytest.approx([100 * 2.75 / 12.5, 100 * 5.25 / 25.0])
    assert outside(FOUND) == pytest.approx([100 * 3.5 / 12.5, 100 * 7.0 / 25.0])


def test_numbers_by_hand() -> None:
    by_metric = {m.metric: m for m in measurements(FOUND, peak_tflops=1.0)}
    assert by_metric["tokens_per_second"].runs == (100.0, 50.0)
    assert by_metric["tokens_per_cpu_second"].runs == (200.0, 100.0)
    assert by_metric["memory"].value == 3.0
    assert by_metric["mfu"].runs == (0.6, 0.3)
    assert model_flops_share(1000, 10_000_000, 0.06) == 100.0


def test_goals() -> None:
    measured = [
        measurement(OURS_PACKED, "tokens_per_cpu_second", 300),
        measurement(OURS_PADDED, "tokens_per_cpu_second", 150),
        measurement("trl padded", "tokens_per_cpu_second", 100),
        measurement("verl packed", "tokens_per_cpu_second", 400),
        measurement(OURS_PACKED, "pipeline", 5.5),
    ]
    assert [(v.value, v.met, v.against) for v in verdicts(measured, metric="tokens_per_cpu_second")] == [
        (0.75, False, "verl packed"),
        (2.0, True, OURS_PADDED),
        (5.5, False, OURS_PACKED),
    ]


def test_another_gradient_is_another_step() -> None:
    measured = [
        measurement(OURS_PACKED, "grad_norm", 1.0),
        measurement("trl padded", "grad_norm", 1.005),
        measurement("verl padded", "grad_norm", 1.5),
    ]
    assert disagreements(measured) == ["verl padded, ragged: gradient 1.5 instead of 1"]


@pytest.mark.timeout(600)
def test_the_program_measures_our_own_steps(tmp_path: Path) -> None:
    """Both ways of laying rows out compute the same step; numbers and picture are written."""
    numbers, picture = tmp_path / "numbers.json", tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, PROGRAM, "--quick", "--cases", "ragged", "--json", numbers, "--plot", picture],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(m["subject"], m["metric"]): m["value"] for m in json.loads(numbers.read_text())}
    assert found[OURS_PACKED, "tokens_per_second"] > 0
    assert found[OURS_PACKED, "grad_norm"] == pytest.approx(found[OURS_PADDED, "grad_norm"], rel=1e-3)
    assert 0 < found[OURS_PACKED, "pipeline"] < 100
    assert picture.stat().st_size > 1000
