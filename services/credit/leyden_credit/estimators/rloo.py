"""Leave-one-out advantages, the same for every step of a rollout.

Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback
in LLMs" (2024, arXiv:2402.14740): ``A_i = X_i - mean of the others = (G X_i - sum X) / (G - 1)``. Here
``X_i`` is the final reward plus the sum of the intermediate ones. Nothing is divided by a deviation, so the
scale of rewards is kept.
"""

from collections.abc import Sequence

from leyden_credit.estimators.base import Advantages, Estimator, broadcast
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import against_the_others


class Rloo(Estimator):
    """One rollout, or equal totals, give zeros."""

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Compare every total with the mean of the other rollouts', and broadcast over the steps."""
        return broadcast(against_the_others([rollout.total for rollout in group]), group)
