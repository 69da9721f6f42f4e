"""What the rollouts of one group are worth, compared with each other."""

from collections.abc import Sequence

from leyden_reward.rewards.grading import rankings_in
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_reward.rewards.judging.ruler import Ranked, rank
from leyden_reward.scoring import Scoring, is_pending
from leyden_schemas import Trajectory
from leyden_schemas.rewards import Names

LATE = "ranking_late"
"""Why a rollout is excluded whose group was ranked without it."""


class Ranking:
    """Ranks groups with a judge, and gives each rollout the reward that its task asks for."""

    def __init__(self, scoring: Scoring, client: JudgeClient, own: Names) -> None:
        self._scoring, self._client, self._own = scoring, client, own

    def waits(self, trajectory: Trajectory) -> bool:
        """Whether the rollout's reward can only be told beside the others of its group."""
        return bool(rankings_in(trajectory.task.reward, self._own))

    async def settle(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        """The group's trajectories as they are published; failures and exclusions stay as they are."""
        compared = [rollout for rollout in group if is_pending(rollout)]
        ranked = Ranked()
        if compared:
            for spec in rankings_in(compared[0].task.reward, self._own):
                ranked.add(spec, await rank(self._client, compared, spec))
        return [
            await self._scoring.settle(rollout, ranked) if is_pending(rollout) else rollout
            for rollout in group
        ]
