"""Step-level advantages: what followed a step, less what the other rollouts got from there on.

With final reward ``R_i`` and intermediate rewards ``a_it`` of the steps ``t = 1..T_i``, a step's return is

    G_it = sum_{k >= t} gamma^(k - t) a_ik + gamma^(T_i - t) R_i

(Sutton and Barto, "Reinforcement Learning", 2nd ed., section 13.4, REINFORCE with baseline) and its advantage
``A_it = G_it - b_it``. A baseline adds no bias if it depends on nothing that rollout ``i`` does at ``t`` or
later. Both of these are means over the *other* rollouts ``j`` alone:

    same_turn   b_it = mean_j G_j,min(t, T_j)     who ended earlier stands in with its last return
    rollout     b_i  = mean_j mean_k G_jk         one number for the whole rollout

What biases is the mean over *those that reached turn t*, the rollout itself among them: whoever goes on
alone is compared with itself and gets 0, so that a reward for extra turns disappears, and turns that few
reach count less the fewer they are. Tests show both by enumerating every group of a policy that decides
when to stop, and that such a baseline can even turn the gradient round.

``same_turn`` is the default because rollouts that earned the same at every step then get zeros. Against one
number, early steps of such a group look better than late ones; on average over groups that is nothing,
but then those groups cannot be dropped without bias.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from pydantic import Field

from leyden_credit.estimators.base import Advantages, Estimator
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import against_the_others, spread


class ReturnToGo(Estimator):
    """One rollout, or equal returns, give zeros; a rollout without steps counts with its final reward."""

    gamma: float = Field(default=1.0, gt=0, le=1, description="discount per step")
    baseline: Literal["same_turn", "rollout"] = Field(
        default="same_turn", description="what of the other rollouts is subtracted: same_turn or rollout"
    )

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Returns from every step, less a mean over the other rollouts."""
        returns = [returns_to_go(rollout, gamma=self.gamma) for rollout in group]
        lasting = [steps or [rollout.final] for steps, rollout in zip(returns, group, strict=True)]
        if len(group) < 2:
            return [[0.0] * len(steps) for steps in returns]
        less = _less_the_same_turn if self.baseline == "same_turn" else _less_the_rollouts
        return [row[: len(steps)] for row, steps in zip(less(lasting), returns, strict=True)]


def returns_to_go(rollout: ScoredRollout, *, gamma: float) -> list[float]:
    """``G_it`` for every step; empty for a rollout without steps."""
    following, returns = rollout.final, []
    for position, step in enumerate(reversed(rollout.steps)):
        following = step.air + (following if position == 0 else gamma * following)
        returns.append(following)
    return returns[::-1]


def _less_the_same_turn(returns: Sequence[Sequence[float]]) -> Advantages:
    turns = max(map(len, returns))
    by_turn = [against_the_others([row[min(turn, len(row) - 1)] for row in returns]) for turn in range(turns)]
    return [[by_turn[turn][i] for turn in range(len(row))] for i, row in enumerate(returns)]


def _less_the_rollouts(returns: Sequence[Sequence[float]]) -> Advantages:
    means = [fmean(row) for row in returns]
    baselines = [mean - advantage for mean, advantage in zip(means, against_the_others(means), strict=True)]
    return [
        [value - baseline if spread((value, baseline)) else 0.0 for value in row]
        for row, baseline in zip(returns, baselines, strict=True)
    ]
