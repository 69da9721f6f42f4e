"""What a closed trajectory is worth: its final reward and intermediate terms, or why that cannot be told."""

from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from leyden_reward import metrics
from leyden_reward.air.own import OwnRules
from leyden_reward.air.shaping import Shaping
from leyden_reward.beside import beside, is_long
from leyden_reward.decisions import Closed
from leyden_reward.feedback import REWARD, SCALES, FeedbackReward, Scale
from leyden_reward.rewards.grading import Grader, Grades
from leyden_reward.rewards.verdict import Graded, Refused, Verdict
from leyden_schemas import Outcome, RewardTerm, Trajectory, TrajectoryStatus, writable

log = structlog.get_logger(__name__)


class Scoring:
    """Turns closed rollouts into scored, or excluded, trajectories."""

    def __init__(
        self,
        grader: Grader,
        shaping: Shaping,
        *,
        failed_reward: float = 0.0,
        scales: Mapping[str, Scale] = SCALES,
        own_rules: OwnRules | None = None,
    ) -> None:
        self._grader, self._shaping, self._failed_reward = grader, shaping, failed_reward
        self._scales, self._own_rules = scales, own_rules

    async def score(self, closed: Closed) -> Trajectory:
        """The trajectory with every reward term. An excluded one stays as it is."""
        trajectory = closed.trajectory
        if trajectory.status is TrajectoryStatus.EXCLUDED:
            return trajectory
        long = is_long(len(trajectory.steps), closed.nbytes)
        return await self._judged(trajectory, await self._final(closed), closed.signals, long=long)

    async def settle(self, trajectory: Trajectory, ranked: Grades) -> Trajectory:
        """The same for a rollout that waited for the others of its group, with its signals in ``final``."""
        feedback = FeedbackReward(trajectory.final, self._scales)
        judged = await self._grader.grade(trajectory, {"ruler": ranked, REWARD: feedback})
        return await self._judged(trajectory, judged, trajectory.final, long=is_long(len(trajectory.steps)))

    async def _judged(
        self, trajectory: Trajectory, judged: Verdict, signals: Sequence[RewardTerm], *, long: bool
    ) -> Trajectory:
        match judged:
            case Graded(terms, by):
                return await self._scored(trajectory, (*terms, *signals), by, long=long)
            case Refused(reason, text):
                return excluded(trajectory, reason, text)

    async def _final(self, closed: Closed) -> Verdict:
        """The agent's own failure is worth ``failed_reward``; an answer is judged by the task's function."""
        trajectory = closed.trajectory
        if trajectory.outcome is not Outcome.SUCCEEDED:
            return Graded((RewardTerm(name="outcome", value=self._failed_reward),), "outcome")
        feedback = FeedbackReward(closed.signals, self._scales)
        return await self._grader.grade(trajectory, {REWARD: feedback})

    async def _scored(
        self, trajectory: Trajectory, final: tuple[RewardTerm, ...], by: str, *, long: bool
    ) -> Trajectory:
        if not by:
            return trajectory.model_copy(update={"final": list(final)})
        measured = await self._own_rules.measure(trajectory) if self._own_rules else ()
        reward = sum(term.weighted for term in final)
        shape = partial(self._shaping.shape, trajectory.steps, final=reward, measured=measured)
        shaped = await beside(shape, long=long)
        metrics.AIR_CAPPED.inc(shaped.capped)
        return trajectory.model_copy(update={"steps": shaped.steps, "final": list(final), "scored_by": by})


def is_pending(trajectory: Trajectory) -> bool:
    """Whether its reward is still to be told, beside the others of its group."""
    return trajectory.status is TrajectoryStatus.SCORED and not trajectory.scored_by


def excluded(trajectory: Trajectory, reason: str, text: str) -> Trajectory:
    """The trajectory, kept for the record and never trained on."""
    text = writable(text)
    log.warning("rollout_excluded", rollout_id=str(trajectory.rollout_id), reason=str(reason), error=text)
    return trajectory.model_copy(
        update={
            "status": TrajectoryStatus.EXCLUDED,
            "excluded_reason": str(reason),
            "error": text,
            "final": [],
        }
    )
