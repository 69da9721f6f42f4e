"""Group-relative advantages, the same for every step of a rollout.

Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models" (2024,
arXiv:2402.03300), section 4.1: ``A_i = (X_i - mean(X)) / (std(X) + eps)``. Here ``X_i`` is the final reward
plus the sum of the intermediate ones, and ``std`` the sample deviation (divided by ``G - 1``).

Dividing by the deviation makes every group count alike, also one whose outcomes are equal and whose
intermediate rewards differ by a hair. ``min_std`` is a floor of the divisor: groups that differ by less than
it keep the size of their difference. 0 is the published formula.
"""

from collections.abc import Sequence

from pydantic import Field

from leyden_credit.estimators.base import Advantages, Estimator, broadcast
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import standardised


class Grpo(Estimator):
    """One rollout, or equal totals, give zeros."""

    min_std: float = Field(default=0.0, ge=0, description="smallest deviation that is divided by")

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Standardise totals within the group, and broadcast each over its rollout's steps."""
        return broadcast(standardised([rollout.total for rollout in group], min_std=self.min_std), group)
