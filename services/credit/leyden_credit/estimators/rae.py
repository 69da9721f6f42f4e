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
        taking_part = [dict.fromkeys(step.agent for step in rollout.steps) for rollout in group]
        by_role: dict[tuple[int, str], float] = {}
        for role in dict.fromkeys(role for roles in taking_part for role in roles):
            present = [i for i, roles in enumerate(taking_part) if role in roles]
            found = against_the_others([earned(group[i], role) for i in present])
            by_role |= {(i, role): value for i, value in zip(present, found, strict=True)}
        return [[by_role[i, step.agent] for step in rollout.steps] for i, rollout in enumerate(group)]


def earned(rollout: ScoredRollout, role: str) -> float:
    """``R_ip``: what the role earned in this rollout."""
    shared = [term.value for term in rollout.terms if _counts_for(term.name, role)]
    own = [term.value for step in rollout.steps if step.agent == role for term in step.terms]
    return fsum([*shared, *own])


def _counts_for(name: str, role: str) -> bool:
    address = f"{ADDRESSED}{role}"
    return not name.startswith(ADDRESSED) or name == address or name.startswith(f"{address}.")
