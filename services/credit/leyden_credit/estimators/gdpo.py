"""Advantages from reward terms that are each normalised on their own, the same for every step of a rollout.

Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL
Optimization" (2026, arXiv:2601.05242): with ``x_in`` the sum of term ``n`` in rollout ``i``,

    z_in = (x_in - mean_n) / (std_n + eps)        within the group, one term at a time
    A_i  = sum_n w_n z_in                         then whitened over the batch

So terms of different scale count by their weights and not by how much they happen to vary, and rewards
that differ term by term but add up alike are told apart.

The batch. A credit service sees a stream, and any batch it formed would depend on when it was restarted.
But whitening has only one effect here: every group's ``A`` has mean 0 already, so all that is left is one
positive factor for the whole batch. Terms that vary independently would make the batch's deviation
``sqrt(sum_n w_n^2)``; dividing by that keeps the size of advantages independent of the number of terms, as
the paper wants, and is a function of the group alone (docs/adr/0006-advantages-of-the-group-alone.md). A
group in which only a light term varies stays light: whitening it by its own deviation would blow it up.
With a single term this is ``grpo``.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, sqrt
from typing import Annotated

from pydantic import Field

from leyden_credit.estimators.base import Advantages, Estimator, broadcast
from leyden_credit.rollout import ScoredRollout, Term
from leyden_credit.statistics import standardised

TermKey = tuple[str, str]


class Gdpo(Estimator):
    """A term that a rollout lacks is 0 there. One rollout, or equal terms, give zeros.

    The weight of a term is the largest with which the group has it (AIR caps scale weights down per rollout),
    unless ``weights`` names it.
    """

    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weight by name of term, instead of the recorded one"
    )

    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        """Standardise term by term, add by weight, bring to unit deviation, and broadcast over the steps."""
        sums = [_sums(rollout) for rollout in group]
        weights = self._weights(group)
        size = sqrt(fsum(weight**2 for weight in weights.values()))
        if size == 0.0:
            return broadcast([0.0] * len(group), group)
        parts = [
            [weight / size * z for z in standardised([by_term.get(term, 0.0) for by_term in sums])]
            for term, weight in weights.items()
        ]
        return broadcast([fsum(part) for part in zip(*parts, strict=True)], group)

    def _weights(self, group: Sequence[ScoredRollout]) -> Mapping[TermKey, float]:
        found: dict[TermKey, float] = {}
        for rollout in group:
            for key, term in _keyed(rollout):
                found[key] = max(found.get(key, 0.0), term.weight)
        return {key: self.weights.get(key[1], weight) for key, weight in found.items()}


def _sums(rollout: ScoredRollout) -> dict[TermKey, float]:
    values = defaultdict(list)
    for key, term in _keyed(rollout):
        values[key].append(term.value)
    return {key: fsum(parts) for key, parts in values.items()}


def _keyed(rollout: ScoredRollout) -> Iterable[tuple[TermKey, Term]]:
    """A step's term is another than the final reward's of the same name."""
    yield from ((("final", term.name), term) for term in rollout.terms)
    yield from ((("step", term.name), term) for step in rollout.steps for term in step.terms)
