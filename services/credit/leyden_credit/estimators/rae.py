"""Advantages per agent role, for rollouts in which several agents take part.

Liu et al., "SPIRAL: Self-Play on Zero-Sum Games Incentivizes Reasoning via Multi-Agent Multi-Turn
Reinforcement Learning" (2025, arXiv:2506.24119), role-conditioned advantage estimation: ``A_ip = R_ip - b_p``
with ``b_p`` an estimate of what role ``p`` earns on average. There it is a moving average over past games,
because a game is played once. Here a task has several rollouts by the same policy, and ``b_ip`` is the mean
over the *other* rollouts in which ``p`` took part: the same expectation without lag or a value to begin
with, and a function of the group alone, which a moving average in a service that may restart is not
(docs/adr/0006-advantages-of-the-group-alone.md).

What a role earns: the terms of the final reward that are addressed to it (named ``agent.<role>`` or
``agent.<role>.<anything>``), those addressed to nobody, and the intermediate rewards of its own steps.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import fsum

from leyden_credit.estimators.base import Advantages, Estimator
from leyden_credit.rollout import ScoredRollout
from leyden_credit.statistics import against_the_others

ADDRESSED = "agent."


class Rae(Estimator):
    """A role that took part in one rollout only, or earned the same in all, gets zeros."""

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Compare every role with itself in the other rollouts, and broadcast over its steps."""
        by_role: dict[str, dict[int, float]] = defaultdict(dict)
        for i, rollout in enumerate(group):
            for role, reward in earned(rollout).items():
                by_role[role][i] = reward
        advantages = {
            role: dict(zip(rewards, against_the_others(list(rewards.values())), strict=True))
            for role, rewards in by_role.items()
        }
        return [[advantages[step.agent][i] for step in rollout.steps] for i, rollout in enumerate(group)]


def earned(rollout: ScoredRollout) -> dict[str, float]:
    """``R_ip`` of every role that took part in the rollout."""
    own: dict[str, list[float]] = {step.agent: [] for step in rollout.steps}
    for step in rollout.steps:
        own[step.agent] += [term.value for term in step.terms]
    return {
        role: fsum([*values, *(term.value for term in rollout.terms if _counts_for(term.name, role))])
        for role, values in own.items()
    }


def _counts_for(name: str, role: str) -> bool:
    address = f"{ADDRESSED}{role}"
    return not name.startswith(ADDRESSED) or name == address or name.startswith(f"{address}.")
