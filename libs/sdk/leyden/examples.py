"""A trajectory made by hand, to try a reward function on before any agent runs."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from leyden_schemas import (
    JsonObject,
    Outcome,
    RewardSpec,
    RolloutAssigned,
    Step,
    Task,
    Trajectory,
    cause_id,
)


def example_trajectory(
    output: Any,
    *,
    reference: Any = None,
    input: Mapping[str, Any] | None = None,  # noqa: A002 - as the task calls it
    params: Mapping[str, Any] | None = None,
    exchanges: Sequence[tuple[JsonObject, JsonObject]] = (),
) -> Trajectory:
    """A finished rollout with this output, as the reward service would hand it over.

    ``params`` are those of the task's reward; ``exchanges`` are pairs of the request and the response of each
    model call, in the protocol's own JSON. Equal arguments give equal trajectories.
    """
    task = Task(
        task_id="example",
        input=dict(input or {}),
        policy="example",
        reference=reference,
        reward=RewardSpec(name="example", params=dict(params or {})),
    )
    (rollout,) = RolloutAssigned.fan_out(task)
    steps = [
        Step(
            completion_id=cause_id("completion", rollout.rollout_id, index),
            policy="example",
            request=request,
            response=response,
        )
        for index, (request, response) in enumerate(exchanges)
    ]
    return Trajectory(
        trajectory_id=cause_id("trajectory", rollout.rollout_id, 1),
        rollout_id=rollout.rollout_id,
        group_id=rollout.group_id,
        task=task,
        outcome=Outcome.SUCCEEDED,
        output=output,
        steps=steps,
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
