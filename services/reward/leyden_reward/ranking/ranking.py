"""What the rollouts of one group are worth, compared with each other."""

from collections.abc import Container, Sequence

from leyden_reward.rewards.grading import Grader, rankings_in
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_reward.rewards.judging.ruler import Ranked, rank
from leyden_reward.rewards.verdict import Graded, Refused
from leyden_reward.scoring import excluded
from leyden_schemas import Outcome, Trajectory, TrajectoryStatus

LATE = "ranking_late"
"""Why a rollout is excluded whose group was ranked without it."""


class Ranking:
    """Ranks groups with a judge, and gives each rollout the reward that its task asks for."""

    def __init__(self, grader: Grader, client: JudgeClient, own: Container[str]) -> None:
        self._grader, self._client, self._own = grader, client, own

    def waits(self, trajectory: Trajectory) -> bool:
        """Whether the rollout's reward can only be told beside the others of its group."""
        return bool(rankings_in(trajectory.task.reward, self._own))

    async def settle(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        """The group's trajectories as they are published; failures and exclusions stay as they are."""
        compared = [rollout for rollout in group if is_open(rollout)]
        ranked = Ranked()
        if compared:
            for spec in rankings_in(compared[0].task.reward, self._own):
                ranked.add(spec, await rank(self._client, compared, spec))
        return [await self._settled(rollout, ranked) for rollout in group]

    async def _settled(self, rollout: Trajectory, ranked: Ranked) -> Trajectory:
        if not is_open(rollout):
            return rollout
        match await self._grader.grade(rollout, {"ruler": ranked}):
            case Graded(terms, by):
                return rollout.model_copy(update={"final": [*terms, *rollout.final], "scored_by": by})
            case Refused(reason, text):
                return excluded(rollout, reason, text)


def is_open(rollout: Trajectory) -> bool:
    """Whether a rollout of a group is still to be ranked."""
    return rollout.status is TrajectoryStatus.SCORED and rollout.outcome is Outcome.SUCCEEDED
