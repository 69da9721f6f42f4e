"""Group-relative advantages, the same for every step of a rollout.

Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models" (2024),
section 4.1: ``A_i = (R_i - mean(R)) / (std(R) + eps)``. Here ``R_i`` is the final reward plus the sum of the
intermediate ones, and ``std`` the sample standard deviation (divided by ``G - 1``).
"""

from collections.abc import Sequence
from statistics import fmean

from leyden_credit.rollout import ScoredRollout

EPS = 1e-6


def grpo(group: Sequence[ScoredRollout]) -> list[list[float]]:
    """Standardise totals within the group, and broadcast each over its rollout's steps."""
    advantages = standardised([rollout.total for rollout in group])
    return [[advantage] * len(rollout.air) for advantage, rollout in zip(advantages, group, strict=True)]


def standardised(returns: Sequence[float], *, eps: float = EPS) -> list[float]:
    """Centre and scale within one group; one return, or equal returns, give zeros."""
    if len(returns) < 2 or spread(returns) == 0.0:
        return [0.0] * len(returns)
    mean = fmean(returns)
    std = (sum((value - mean) ** 2 for value in returns) / (len(returns) - 1)) ** 0.5
    return [(value - mean) / (std + eps) for value in returns]


def spread(returns: Sequence[float]) -> float:
    """Largest less smallest; differences that rounding alone explains are 0."""
    low, high = min(returns), max(returns)
    return 0.0 if high - low <= 1e-9 * max(1.0, abs(low), abs(high)) else high - low
