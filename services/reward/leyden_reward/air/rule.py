"""What a rule is: a habit that can be measured step by step, what it is worth, and how much of it counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from leyden_platform.conversation import Turn

Measure = Callable[[Sequence[Turn]], list[float]]
"""How much of the habit every step shows: 0 for none, never negative."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A habit with its reason.

    ``weight`` is the reward of one unit of it, a step or a call; ``at_most`` is how many units count in one
    trajectory, the earliest ones.
    """

    name: str
    measure: Measure
    weight: float
    at_most: float
    per: Literal["step", "call"]
    sees: str
    why: str


def each(measure: Callable[[Turn], float]) -> Measure:
    """A rule that looks at every answered step by itself."""
    return lambda turns: [measure(turn) if turn.answered else 0.0 for turn in turns]
