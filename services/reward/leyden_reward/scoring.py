"""What a closed trajectory is worth: its final reward and intermediate terms, or why that cannot be told."""

from typing import Protocol

import structlog

from leyden_reward import metrics
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Closed
from leyden_reward.rewards.builtin import BUILTIN
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict, verdict
from leyden_schemas import Outcome, RewardTerm, Trajectory, TrajectoryStatus

log = structlog.get_logger(__name__)


class Workers(Protocol):
    """Where the catalogue's reward functions run."""

    def __contains__(self, name: str) -> bool: ...

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """The verdict of the function ``name``; user code's failures are refusals, never exceptions."""
        ...


class Scoring:
    """Turns closed rollouts into scored, or excluded, trajectories."""

    def __init__(
        self, workers: Workers, shaping: Shaping, *, failed_reward: float = 0.0, max_reward: float = 1e6
    ) -> None:
        self._workers, self._shaping = workers, shaping
        self._failed_reward, self._max_reward = failed_reward, max_reward

    async def score(self, closed: Closed) -> Trajectory:
        """The trajectory with every reward term. An excluded one stays as it is."""
        trajectory = closed.trajectory
        if trajectory.status is TrajectoryStatus.EXCLUDED:
            return trajectory
        match await self._final(trajectory):
            case Graded(terms, by):
                return self._scored(trajectory, (*terms, *closed.signals), by)
            case Refused(reason, text):
                return excluded(trajectory, reason, text)

    async def _final(self, trajectory: Trajectory) -> Verdict:
        """The agent's own failure is worth ``failed_reward``; an answer is judged by the task's function."""
        if trajectory.outcome is not Outcome.SUCCEEDED:
            return Graded((RewardTerm(name="outcome", value=self._failed_reward),), "outcome")
        name = trajectory.task.reward.name
        if name in self._workers:
            return await self._workers.grade(name, trajectory)
        if name in BUILTIN:
            return self._builtin(name, trajectory)
        return Refused(
            Reason.UNKNOWN,
            f"no reward is named {name!r}; add it to LEYDEN_CATALOGUE_REWARDS or use {', '.join(BUILTIN)}",
        )

    def _builtin(self, name: str, trajectory: Trajectory) -> Verdict:
        try:
            value = BUILTIN[name](trajectory)
        except (ValueError, TypeError, RecursionError) as error:
            return Refused(Reason.RAISED, f"{name}: {error}")
        return verdict(value, by=name, max_reward=self._max_reward)

    def _scored(self, trajectory: Trajectory, final: tuple[RewardTerm, ...], by: str) -> Trajectory:
        shaped = self._shaping.shape(trajectory.steps)
        metrics.AIR_CAPPED.inc(shaped.capped)
        return trajectory.model_copy(update={"steps": shaped.steps, "final": list(final), "scored_by": by})


def excluded(trajectory: Trajectory, reason: str, text: str) -> Trajectory:
    """The trajectory, kept for the record and never trained on."""
    log.warning("rollout_excluded", rollout_id=str(trajectory.rollout_id), reason=str(reason), error=text)
    return trajectory.model_copy(
        update={
            "status": TrajectoryStatus.EXCLUDED,
            "excluded_reason": str(reason),
            "error": text,
            "final": [],
        }
    )
