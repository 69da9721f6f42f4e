"""From measurements to reward terms, bounded so that habits can never outweigh the outcome.

Within one trajectory the terms of a rule are scaled down, all alike, to at most ``at_most`` full steps'
worth; then the terms of all rules are, until their magnitudes sum to at most ``cap``. Two trajectories
therefore differ by at most ``2 * cap`` in intermediate reward, whatever a policy repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leyden_reward.air.rules import RULES, Rule
from leyden_reward.conversation import turns
from leyden_schemas import RewardTerm, Step


@dataclass(frozen=True, slots=True)
class Shaped:
    """Steps with their terms; ``capped`` when the cap made the terms smaller."""

    steps: list[Step]
    capped: bool


class Shaping:
    """A choice of rules with their weights, and the cap."""

    def __init__(
        self, *, cap: float, weights: Mapping[str, float] | None = None, rules: Sequence[Rule] = RULES
    ) -> None:
        chosen = weights or {}
        weighted = [(rule, chosen.get(rule.name, rule.weight)) for rule in rules]
        self._cap = cap
        self._rules = [(rule, weight) for rule, weight in weighted if weight] if cap > 0 else []

    def shape(self, steps: Sequence[Step]) -> Shaped:
        """The steps with one term per rule that applies; terms they have already are kept and not counted."""
        if not self._rules:
            return Shaped(list(steps), capped=False)
        conversation = turns(steps)
        found = [_bounded(rule, weight, rule.measure(conversation)) for rule, weight in self._rules]
        total = sum(abs(term.weighted) for by_step in found for term in by_step.values())
        scale = _scale(total, self._cap)
        return Shaped(
            [
                _with_terms(step, [by_step[t] for by_step in found if t in by_step], scale)
                for t, step in enumerate(steps)
            ],
            capped=scale < 1.0,
        )


def _bounded(rule: Rule, weight: float, values: Sequence[float]) -> dict[int, RewardTerm]:
    """The rule's terms by step, together worth at most ``at_most`` full steps."""
    scale = _scale(sum(values), rule.at_most)
    return {
        t: RewardTerm(name=rule.name, value=value, weight=weight * scale)
        for t, value in enumerate(values)
        if value
    }


def _scale(total: float, bound: float) -> float:
    """The factor that brings ``total`` down to ``bound``; 1 when it is not above."""
    return bound / total if total > bound else 1.0


def _with_terms(step: Step, terms: Sequence[RewardTerm], scale: float) -> Step:
    scaled = [term.model_copy(update={"weight": term.weight * scale}) for term in terms]
    return step.model_copy(update={"terms": [*step.terms, *scaled]}) if scaled else step
