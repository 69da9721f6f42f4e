"""Step-level advantages from steps that saw the same state, added to those of whole rollouts.

Feng et al., "Group-in-Group Policy Optimization for LLM Agent Training" (2025, arXiv:2505.10978), section 4:

    A_it   = A^E_i + w A^S_it
    A^E_i  = (X_i - mean(X)) / F(X)                         over the group's rollouts
    A^S_it = (G_it - mean of its sub-group) / F(sub-group)  over the group's steps with the same state

``X_i`` is the final reward plus the sum of the intermediate ones, ``G_it`` the discounted return from step
``t`` on, and ``F`` either 1 or the sample deviation. A sub-group may hold several steps of one rollout, which
came back to a state. With ``gamma`` below 1, whoever is nearer to the reward did better.

What a state is: ``leyden_credit.states``.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from leyden_credit.estimators.base import Advantages, Estimator
from leyden_credit.estimators.return_to_go import returns_to_go
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import centred, standardised


class Gigpo(Estimator):
    """A step alone with its state, or of unknown state, has ``A^S`` = 0; one rollout gives zeros."""

    gamma: float = Field(default=1.0, gt=0, le=1, description="discount per step")
    w: float = Field(default=1.0, ge=0, description="weight of the step's advantage beside the rollout's")
    scale: Literal["none", "std"] = Field(
        default="none", description="what differences are divided by: none, or std as in grpo"
    )

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """The advantage of the rollout, plus that of each step among the steps of its state."""
        if len(group) < 2:
            return [[0.0] * len(rollout.steps) for rollout in group]
        compared = centred if self.scale == "none" else standardised
        episodes = compared([rollout.total for rollout in group])
        advantages = [
            [episode] * len(rollout.steps) for episode, rollout in zip(episodes, group, strict=True)
        ]
        returns = [returns_to_go(rollout, gamma=self.gamma) for rollout in group]
        for places in _places_by_state(group):
            found = compared([returns[i][t] for i, t in places])
            for (i, t), advantage in zip(places, found, strict=True):
                advantages[i][t] += self.w * advantage
        return advantages


def _places_by_state(group: Sequence[ScoredRollout]) -> list[list[tuple[int, int]]]:
    """The sub-groups, each as (rollout, step)."""
    places = defaultdict(list)
    for i, rollout in enumerate(group):
        for t, step in enumerate(rollout.steps):
            if step.state is not None:
                places[step.state].append((i, t))
    return list(places.values())
