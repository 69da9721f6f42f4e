"""Rewards made of rewards: what ``weighted``, ``gated`` and ``clipped`` make of their parts' terms.

Pure functions of verdicts. A part that cannot be told makes the whole impossible to tell: half of a sum is no
smaller reward, it is another one.
"""

from collections.abc import Iterable, Sequence
from math import fsum

from leyden_reward.rewards.verdict import MAX_FEEDBACK, Graded, Refused, Verdict
from leyden_schemas import RewardTerm
from leyden_schemas.rewards import Clipped, Gated, Part


def weighted(parts: Sequence[Part], verdicts: Sequence[Verdict]) -> Verdict:
    """The terms of all parts, named after them, with their weights times the part's."""
    terms, by = [], []
    for part, judged in zip(parts, verdicts, strict=True):
        if isinstance(judged, Refused):
            return judged
        terms += [_within(part, term) for term in judged.terms]
        by.append(judged.by)
    return Graded(tuple(terms), f"weighted({', '.join(by)})")


def opens(params: Gated, gate: Graded) -> bool:
    """Whether what the gate is worth is enough."""
    return total(gate.terms) >= params.at_least


def closed(params: Gated, gate: Graded) -> Graded:
    """Behind a gate that stays closed: one term ``gate``, with what the gate had to say."""
    term = RewardTerm(name="gate", value=params.otherwise, feedback=_said(gate.terms))
    return Graded((term,), f"gated({gate.by})")


def opened(gate: Graded, then: Graded) -> Graded:
    """The terms behind an open gate."""
    return Graded(then.terms, f"gated({gate.by}, {then.by})")


def clipped(params: Clipped, of: Graded) -> Graded:
    """One term ``clipped``: the sum between the bounds."""
    value = min(max(total(of.terms), params.low), params.high)
    return Graded((RewardTerm(name="clipped", value=value, feedback=_said(of.terms)),), f"clipped({of.by})")


def total(terms: Iterable[RewardTerm]) -> float:
    """What terms are worth together."""
    return fsum(term.weighted for term in terms)


def _within(part: Part, term: RewardTerm) -> RewardTerm:
    label = part.label or part.name
    name = label if term.name == "reward" else f"{label}.{term.name}"
    return term.model_copy(update={"name": name, "weight": term.weight * part.weight})


def _said(terms: Sequence[RewardTerm]) -> str | None:
    said = "\n".join(f"{term.name}: {term.feedback}" for term in terms if term.feedback)
    return said[:MAX_FEEDBACK] or None
