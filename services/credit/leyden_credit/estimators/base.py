"""What an estimator is: parameters, and a pure function from a group's rollouts to one advantage per step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from leyden_credit.rollout import ScoredRollout

Advantages = list[list[float]]


class Estimator(BaseModel, ABC):
    """Fields are parameters, checked when it is made. It is named like the file it is defined in.

    Calling it gives, for every rollout in the order given, one advantage per step; a rollout without steps
    gets an empty list. It must be a function of the group alone, whatever the order of its rollouts: then
    a replay gives the same samples bit for bit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @abstractmethod
    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Advantages of the group, finite for finite rewards; nothing to compare gives zeros."""

    @property
    def label(self) -> str:
        """The name, with the parameters that are not the defaults: ``gigpo(w=0.5)``."""
        given = self.model_dump(exclude_defaults=True)
        name = type(self).__module__.rpartition(".")[2]
        return f"{name}({', '.join(f'{key}={given[key]}' for key in sorted(given))})" if given else name


def broadcast(advantages: Sequence[float], group: Sequence[ScoredRollout]) -> Advantages:
    """The same advantage for every step of a rollout."""
    return [[value] * len(rollout.steps) for value, rollout in zip(advantages, group, strict=True)]
