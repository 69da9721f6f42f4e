"""Advantage estimators: one file each, all with one signature, chosen by name.

An estimator is a pure function of a group's rollouts. It gives, for every rollout in the order given, one
advantage per step; a rollout without steps gets an empty list. Adding one is a file here and a line below.
"""

from collections.abc import Callable, Sequence
from functools import partial

from leyden_credit.estimators.grpo import grpo
from leyden_credit.estimators.return_to_go import return_to_go
from leyden_credit.estimators.rloo import rloo
from leyden_credit.rollout import ScoredRollout

Advantages = list[list[float]]
Estimator = Callable[[Sequence[ScoredRollout]], Advantages]

ESTIMATORS = ("grpo", "return_to_go", "rloo")


def estimator(name: str, *, gamma: float = 1.0) -> Estimator:
    """The estimator of that name; ``gamma`` matters to those that discount. Raises ``ValueError``."""
    known: dict[str, Estimator] = {
        "grpo": grpo,
        "return_to_go": partial(return_to_go, gamma=gamma),
        "rloo": rloo,
    }
    if name not in known:
        raise ValueError(f"no estimator is named {name!r}; choose one of {', '.join(ESTIMATORS)}")
    return known[name]


__all__ = ["ESTIMATORS", "Advantages", "Estimator", "estimator", "grpo", "return_to_go", "rloo"]
