"""Whose fault a failed attempt was, by what the log says of its calls."""

from typing import Any

import pytest

from leyden_platform.testing.rollouts import EPOCH, Rollout, make_step
from leyden_reward.assembly import Assembly
from leyden_reward.blame import OURS, excuse, waited_s
from leyden_reward.decisions import Closed
from leyden_schemas import CompletionStatus, Outcome, Step, Timings


def call(total_s: float, queue_s: float | None = 0.0, untrainable: str | None = None) -> Step:
    """A call that took so long, of which so long until it was sent."""
    status = CompletionStatus.ERROR if untrainable else CompletionStatus.OK
    timings = Timings(queue_s=queue_s, total_s=total_s)
    return make_step(status=status, untrainable=untrainable, timings=timings)


@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        (call(9.0), 0.0),
        (call(9.0, queue_s=4.0), 4.0),
        (call(9.0, queue_s=4.0, untrainable="upstream_timeout"), 9.0),
        (call(9.0, queue_s=None, untrainable="model_unavailable"), 9.0),
        (call(9.0, queue_s=None, untrainable="cancelled"), 9.0),
        (call(9.0, queue_s=1.0, untrainable="upstream_error"), 1.0),
        (make_step(), 0.0),
    ],
)
def test_what_a_call_cost_through_us(step: Step, seconds: float) -> None:
    assert waited_s(step) == seconds


@pytest.mark.parametrize(
    ("outcome", "steps", "reason"),
    [
        (Outcome.SUCCEEDED, [], None),
        (Outcome.SUCCEEDED, [call(99.0, untrainable="upstream_timeout"), call(1.0)], None),
        (Outcome.SUCCEEDED, [call(1.0), call(1.0, untrainable="upstream_error")], None),
        (Outcome.SUCCEEDED, [call(1.0), call(1.0, untrainable="upstream_timeout")], "infrastructure_failed"),
        (Outcome.INFRASTRUCTURE_FAILED, [], "infrastructure_failed"),
        (Outcome.TIMED_OUT, [], None),
        (Outcome.TIMED_OUT, [call(90.0)], None),
        (Outcome.TIMED_OUT, [call(25.0, queue_s=25.0)], None),
        (Outcome.TIMED_OUT, [call(14.0, queue_s=13.0), call(13.0, queue_s=13.0)], "overloaded"),
        (Outcome.TIMED_OUT, [call(60.0, queue_s=None, untrainable="cancelled")], "overloaded"),
        (Outcome.AGENT_FAILED, [], None),
        (Outcome.AGENT_FAILED, [call(1.0)], None),
        (Outcome.AGENT_FAILED, [call(1.0, untrainable="invalid_request")], None),
        (Outcome.AGENT_FAILED, [call(1.0, untrainable="upstream_error")], None),
        (Outcome.AGENT_FAILED, [call(1.0, untrainable="replicas_busy"), call(1.0)], None),
        (Outcome.AGENT_FAILED, [call(1.0), call(1.0, untrainable="replicas_busy")], "infrastructure_failed"),
    ],
)
def test_what_is_excused(outcome: Outcome, steps: list[Step], reason: str | None) -> None:
    assert excuse(outcome, steps, ran_s=100.0, waiting_share=0.25) == reason


@pytest.mark.parametrize("untrainable", sorted(OURS))
def test_the_last_call_failed_through_us(untrainable: str) -> None:
    steps = [call(1.0, untrainable=untrainable)]
    assert excuse(Outcome.AGENT_FAILED, steps, ran_s=1.0, waiting_share=0.25) == "infrastructure_failed"


@pytest.mark.parametrize(("duration_s", "reason"), [(100.0, None), (30.0, "overloaded"), (0.0, None)])
def test_the_assembly_looks_at_the_calls(duration_s: float, reason: str | None) -> None:
    """Ten seconds of waiting; without a duration the task's limit of 120 counts."""
    rollout, assembly = Rollout(), Assembly(waiting_share=0.25)
    slow: Any = rollout.completion(timings=Timings(queue_s=10.0, total_s=11.0))
    end = rollout.finished(None, outcome=Outcome.TIMED_OUT, duration_s=duration_s)
    decisions = [d for n, e in enumerate((rollout.started(), slow, end)) for d in assembly.take(e, n, EPOCH)]
    (closed,) = [decision for decision in decisions if isinstance(decision, Closed)]
    assert closed.trajectory.excluded_reason == reason
    assert closed.trajectory.outcome is Outcome.TIMED_OUT
