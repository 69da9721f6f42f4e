"""From measurements to reward terms, bounded so that habits neither outweigh the outcome nor can be farmed.

Everything that bounds is a budget, spent in the order of the steps, so that what a step earns depends on
nothing that comes after it:

- a rule counts for ``at_most`` units in a trajectory;
- blame and praise, each added up over all rules and steps, count for ``cap``;
- praise fades as the outcome arrives: with a final reward ``R`` and a full one of ``goal``, its budget and
  every praise are multiplied by ``1 - R / goal``, between 0 and 1. Praise is there to find the way; whoever
  is at the goal has found it, and nothing on the way can make a success worth more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from leyden_platform.conversation import turns
from leyden_reward.air.rule import Rule
from leyden_reward.air.rules import RULES
from leyden_schemas import RewardTerm, Step


class Worth(Protocol):
    """What measurements of a habit count for."""

    @property
    def name(self) -> str:
        """The name of its terms."""

    @property
    def weight(self) -> float:
        """The reward of one unit."""

    @property
    def at_most(self) -> float:
        """How many units count in a trajectory."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """Steps with their terms; ``capped`` when the cap took something away."""

    steps: list[Step]
    capped: bool


class Shaping:
    """A choice of rules with their weights, and the bounds."""

    def __init__(
        self,
        *,
        cap: float,
        goal: float = 1.0,
        weights: Mapping[str, float] | None = None,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._cap, self._goal, self._weights = cap, goal, weights or {}
        self._rules = [rule for rule in rules if self._weight(rule)]

    def shape(
        self,
        steps: Sequence[Step],
        *,
        final: float = 0.0,
        measured: Sequence[tuple[Worth, Sequence[float]]] = (),
    ) -> Shaped:
        """The steps with a term for each rule that applies; terms they have already are kept and not counted.

        ``final`` is the final reward, ``measured`` what others than the rules here have measured.
        """
        if not self._cap:
            return Shaped(list(steps), capped=False)
        conversation = turns(steps) if self._rules else []
        found = [*((rule, rule.measure(conversation)) for rule in self._rules), *measured]
        habits = [(_Habit(rule, self._weight(rule)), values) for rule, values in found if any(values)]
        budgets = _Budgets(self._cap, fading=_fading(final, self._goal))
        shaped = [
            _with_terms(
                step,
                [term for habit, values in habits if values[t] and (term := budgets.term(habit, values[t]))],
            )
            for t, step in enumerate(steps)
        ]
        return Shaped(shaped, budgets.capped)

    def _weight(self, rule: Worth) -> float:
        return self._weights.get(rule.name, rule.weight)


class _Habit:
    """A rule within one trajectory: its weight, and how many units are left."""

    def __init__(self, rule: Worth, weight: float) -> None:
        self.name, self.weight, self.left = rule.name, weight, rule.at_most


class _Budgets:
    """What blame and praise may still come to in one trajectory, and how much of praise counts."""

    def __init__(self, cap: float, *, fading: float) -> None:
        self._left = {False: cap, True: cap}
        self._fading = fading
        self.capped = False

    def term(self, habit: _Habit, value: float) -> RewardTerm | None:
        """What counts of a measurement; None when nothing does."""
        units = min(value, habit.left)
        if units <= 0.0:
            return None
        habit.left -= units
        praise, worth = habit.weight > 0, units * abs(habit.weight)
        allowed = min(worth, self._left[praise])
        self._left[praise] -= allowed
        if allowed < worth:
            units, self.capped = allowed / abs(habit.weight), True
        if praise:
            units *= self._fading
        return RewardTerm(name=habit.name, value=units, weight=habit.weight) if units > 0.0 else None


def _fading(final: float, goal: float) -> float:
    """The share of praise that counts: all of it at a final reward of 0 or less, none at the goal."""
    return min(max(1.0 - final / goal, 0.0), 1.0)


def _with_terms(step: Step, terms: Sequence[RewardTerm]) -> Step:
    return step.model_copy(update={"terms": [*step.terms, *terms]}) if terms else step
