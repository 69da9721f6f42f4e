"""Step-level advantages: what followed a step, less what the other rollouts got.

With final reward ``R_i`` and intermediate rewards ``a_it`` of the steps ``t = 1..T_i``, a step's return is

    G_it = sum_{k >= t} gamma^(k - t) a_ik + gamma^(T_i - t) R_i

(Sutton and Barto, "Reinforcement Learning", 2nd ed., section 13.4, REINFORCE with baseline). The baseline of
rollout ``i`` is the mean, over the *other* rollouts, of each one's mean return: ``A_it = G_it - b_i``. It
depends on nothing that rollout ``i`` did and not on ``t``, so it adds no bias. A baseline per turn index
would: the policy decides when to stop, so which rollouts reach a turn depends on what they earn, and a
reward for extra turns would be subtracted away.
"""

from collections.abc import Sequence
from statistics import fmean

from leyden_credit.rollout import ScoredRollout


def return_to_go(group: Sequence[ScoredRollout], *, gamma: float = 1.0) -> list[list[float]]:
    """Returns from every step, less a leave-one-out baseline; one rollout, or identical ones, give zeros."""
    if len(set(group)) < 2:
        return [[0.0] * len(rollout.air) for rollout in group]
    returns = [returns_from_each_step(rollout, gamma=gamma) for rollout in group]
    means = [fmean(steps) if steps else rollout.final for steps, rollout in zip(returns, group, strict=True)]
    total = sum(means)
    baselines = [(total - mean) / (len(group) - 1) for mean in means]
    return [[value - baseline for value in steps] for steps, baseline in zip(returns, baselines, strict=True)]


def returns_from_each_step(rollout: ScoredRollout, *, gamma: float) -> list[float]:
    """``G_it`` for every step; empty for a rollout without steps."""
    following, returns = rollout.final, []
    for position, reward in enumerate(reversed(rollout.air)):
        following = reward + (following if position == 0 else gamma * following)
        returns.append(following)
    return returns[::-1]
