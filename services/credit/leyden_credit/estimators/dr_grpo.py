"""Group-relative advantages that are not divided by a deviation, the same for every step of a rollout.

Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective" (2025, arXiv:2503.20783):
``A_i = X_i - mean(X)``. Here ``X_i`` is the final reward plus the sum of the intermediate ones. Dividing by
the deviation would weigh tasks by how hard they are; not doing so keeps the scale of rewards. It is
``rloo`` times ``(G - 1) / G``. The other half of that paper, a constant in the loss instead of the
response's length, is the learner's.
"""

from collections.abc import Sequence

from leyden_credit.estimators.base import Advantages, Estimator, broadcast
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import centred


class DrGrpo(Estimator):
    """One rollout, or equal totals, give zeros."""

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Centre totals within the group, and broadcast each over its rollout's steps."""
        return broadcast(centred([rollout.total for rollout in group]), group)
