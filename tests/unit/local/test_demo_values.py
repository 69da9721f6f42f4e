"""The demo's arithmetic: pacing, intervals, and the fold over the log."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_local.demo.pacing import admissible
from leyden_local.demo.statistics import Rate
from leyden_local.demo.tally import Tally
from leyden_schemas import (
    AliasMoved,
    ModelPublished,
    Outcome,
    RewardTerm,
    RolloutAssigned,
    Split,
    Step,
    Task,
    Trajectory,
    TrajectoryStatus,
    cause_id,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_admission_follows_the_formula() -> None:
    assert admissible(staleness=0, batch=96, trained=0, accepted=0, running=0) == 96
    assert admissible(staleness=1, batch=96, trained=0, accepted=0, running=0) == 192
    assert admissible(staleness=1, batch=96, trained=3 * 96, accepted=300, running=84) == 5 * 96 - 384
    assert admissible(staleness=1, batch=96, trained=2 * 96 + 16, accepted=300, running=84) == 16
    assert admissible(staleness=0, batch=8, trained=0, accepted=8, running=8) == 0


@given(st.integers(0, 8), st.integers(1, 256), *[st.integers(0, 10**4)] * 3)
def test_admission_never_overdraws(
    staleness: int, batch: int, trained: int, accepted: int, running: int
) -> None:
    room = admissible(staleness=staleness, batch=batch, trained=trained, accepted=accepted, running=running)
    assert room >= 0
    if room:
        assert accepted + running + room - trained == (staleness + 1) * batch


def test_wilson_interval_by_hand() -> None:
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416 = 0.71674, half width 0.22659
    low, high = Rate(8, 10).interval(z=1.96)
    assert (low, high) == pytest.approx((0.49016, 0.94333), abs=1e-4)
    assert Rate(0, 0).interval() == (0.0, 1.0)
    assert Rate(0, 10).interval()[0] == 0.0
    assert Rate(10, 10).interval()[1] == 1.0


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate(counts: tuple[int, int]) -> None:
    rate = Rate(*counts)
    low, high = rate.interval()
    assert 0 <= low <= rate.value <= high <= 1


def trajectory(index: int, *, run: str = "demo", reward: float = 1.0, excluded: bool = False) -> Trajectory:
    task = Task(task_id=f"t{index}", run=run, input={}, policy="p", split=Split.TRAIN)
    (assigned,) = RolloutAssigned.fan_out(task)
    return Trajectory(
        run=run,
        trajectory_id=cause_id("trajectory", index),
        rollout_id=assigned.rollout_id,
        group_id=assigned.group_id,
        task=task,
        outcome=Outcome.SUCCEEDED,
        status=TrajectoryStatus.EXCLUDED if excluded else TrajectoryStatus.SCORED,
        steps=[Step(completion_id=UUID(int=index), policy="p", version=0, token_ids=[1, 2, 3])],
        final=[RewardTerm(name="r", value=reward)],
        finished_at=NOW,
    )


def published(step: int | None, version: int, run: str = "demo") -> ModelPublished:
    return ModelPublished(
        run=run,
        event_id=cause_id("m", version),
        policy="p",
        version=version,
        occurred_at=NOW,
        artifact="file:///x",
        digest="d",
        step=step,
        metrics={"staleness_mean": 0.5},
    )


def test_a_tally_counts_its_own_run_once() -> None:
    tally = Tally("demo", "p")
    tally.ask([Task(task_id="t", input={}, policy="p", samples=4)])
    for message in (
        trajectory(0),
        trajectory(0),
        trajectory(1, reward=0.0),
        trajectory(2, run="other"),
        trajectory(3, excluded=True),
        published(None, 0),
        published(1, 1),
        published(1, 9, run="other"),
        AliasMoved(event_id=UUID(int=1), policy="p", version=1, occurred_at=NOW, alias="serving"),
        AliasMoved(event_id=UUID(int=2), policy="q", version=7, occurred_at=NOW, alias="serving"),
        "something else",
    ):
        tally.take(message)
    assert (tally.asked, len(tally.finished), tally.running) == (4, 3, 1)
    assert tally.recent_reward() == 0.5
    assert (tally.completions, tally.tokens) == (3, 9)
    assert (tally.step, tally.serving, tally.staleness) == (1, 1, 0.5)


def test_an_empty_tally_knows_nothing() -> None:
    tally = Tally("demo", "p")
    assert (tally.step, tally.recent_reward(), tally.staleness) == (0, None, None)
