"""Publishing a trajectory until it is acknowledged, whatever the broker says first, and counting it."""

import asyncio

import structlog

from leyden_platform.messaging import Publisher, Rejected, Unavailable
from leyden_reward import metrics
from leyden_reward.scoring import excluded
from leyden_schemas import Trajectory

log = structlog.get_logger(__name__)
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0


async def publish(publisher: Publisher, trajectory: Trajectory) -> Trajectory:
    """Publish until acknowledged; return what was. One too large is excluded, without its steps."""
    pause_s, bare = _RETRY_FIRST_S, False
    while True:
        try:
            await publisher.publish(trajectory)
            return trajectory
        except Rejected as error:
            trajectory = excluded(
                trajectory.model_copy(update={"steps": [], "output": None}), error.reason, str(error)
            )
            if bare:
                log.error("trajectory_dropped", rollout_id=str(trajectory.rollout_id), error=str(error))
                return trajectory
            bare = True
        except Unavailable as error:
            metrics.PUBLISH_RETRIES.inc()
            log.warning("trajectory_not_published", rollout_id=str(trajectory.rollout_id), error=str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MOST_S)


def measure(trajectory: Trajectory) -> None:
    """Count a trajectory that was published, and log what it was worth."""
    split = trajectory.task.split.value
    if trajectory.revision:
        metrics.REVISIONS.labels(trajectory.status.value).inc()
    metrics.TRAJECTORIES.labels(split, trajectory.status.value).inc()
    if trajectory.excluded_reason:
        metrics.EXCLUDED.labels(trajectory.excluded_reason).inc()
        return
    metrics.FINAL.labels(split).observe(trajectory.reward)
    for term in (term for step in trajectory.steps for term in step.terms):
        if not term.name.startswith("signal."):
            metrics.AIR_TERMS.labels(term.name).inc()
    log.info(
        "rollout_scored",
        rollout_id=str(trajectory.rollout_id),
        reward=trajectory.reward,
        intermediate=sum(step.reward for step in trajectory.steps),
        steps=len(trajectory.steps),
        outcome=trajectory.outcome.value,
        by=trajectory.scored_by,
    )
