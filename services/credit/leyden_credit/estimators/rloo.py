"""Leave-one-out advantages, the same for every step of a rollout.

Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in
LLMs" (2024): ``A_i = R_i - mean of the others = (G R_i - sum R) / (G - 1)``. Here ``R_i`` is the final reward
plus the sum of the intermediate ones. Nothing is divided by a deviation, so the scale of rewards is kept.
"""

from collections.abc import Sequence

from leyden_credit.estimators.grpo import spread
from leyden_credit.rollout import ScoredRollout


def rloo(group: Sequence[ScoredRollout]) -> list[list[float]]:
    """Compare every total with the mean of the other rollouts', and broadcast over the steps."""
    advantages = against_the_others([rollout.total for rollout in group])
    return [[advantage] * len(rollout.air) for advantage, rollout in zip(advantages, group, strict=True)]


def against_the_others(returns: Sequence[float]) -> list[float]:
    """Each return less the mean of the others; one return, or equal returns, give zeros."""
    size = len(returns)
    if size < 2 or spread(returns) == 0.0:
        return [0.0] * size
    total = sum(returns)
    return [(size * value - total) / (size - 1) for value in returns]
