"""Scored rollouts for tests of estimators, told as briefly as they can be."""

from collections.abc import Sequence

from leyden_credit.estimators import Advantages
from leyden_credit.rollout import ScoredRollout, ScoredStep, Term


def step(air: float = 0.0, agent: str = "main", state: str | None = None, rule: str = "rule") -> ScoredStep:
    """A step with at most one intermediate reward."""
    terms = (Term(rule, air),) if air else ()
    return ScoredStep(terms, agent, None if state is None else state.encode())


def rollout(final: float, *air: float) -> ScoredRollout:
    """One final term, and a step per intermediate reward, in states that nobody else sees."""
    return ScoredRollout((Term("reward", final),), tuple(map(step, air)))


def visiting(final: float, *states: str) -> ScoredRollout:
    """A rollout that comes through these states and earns nothing on the way."""
    return ScoredRollout((Term("reward", final),), tuple(step(state=state) for state in states))


def outcomes(*finals: float) -> list[ScoredRollout]:
    """Rollouts of one step without intermediate rewards."""
    return [rollout(final, 0.0) for final in finals]


def flat(advantages: Advantages) -> list[float]:
    """All advantages in one list."""
    return [advantage for by_step in advantages for advantage in by_step]


def firsts(advantages: Advantages) -> Sequence[float]:
    """The advantage of every rollout's first step."""
    return [by_step[0] for by_step in advantages]
