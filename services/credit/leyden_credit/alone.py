"""Credit for a rollout that nothing is compared with: the one session, the one sample of its task.

Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning" (1992):
``X - b`` for every step, with a constant baseline ``b``. Any constant leaves the gradient unbiased; one near
the mean reward leaves it less noisy. Whoever knows that mean gives it, so the advantage is still a function
of the group alone (ADR 6).
"""

from collections.abc import Sequence

from pydantic import Field

from leyden_credit.estimators import Advantages, Estimator
from leyden_credit.estimators.base import broadcast
from leyden_credit.rollout import ScoredRollout


class Alone(Estimator):
    """What the rollout earned beyond the baseline."""

    baseline: float = Field(description="The reward that moves nothing.")

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Every total less the baseline, broadcast over the steps."""
        return broadcast([rollout.total - self.baseline for rollout in group], group)
