"""An intermediate reward of this example's own: a call that worked is a step on the way."""

from collections.abc import Sequence

import leyden


@leyden.rule(weight=0.02, at_most=8)
def moved_on(turns: Sequence[leyden.Turn]) -> list[float]:
    """1 for every step in which a tool did what it was asked."""
    return [float(any(outcome.worked for outcome in turn.outcomes)) for turn in turns]
