"""The values that estimators compare: what one rollout earned, where, and what it saw there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from leyden_schemas import RewardTerm, Trajectory


@dataclass(frozen=True, slots=True)
class Term:
    """A named reward: ``value`` is what counts, weight included; ``weight`` is the weight's magnitude."""

    name: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ScoredStep:
    """One step: its intermediate rewards, the agent whose step it was, and a digest of the state it saw.

    Steps of a group with equal ``state`` are alternatives of one another; None is equal to nothing.
    """

    terms: tuple[Term, ...] = ()
    agent: str = "main"
    state: bytes | None = None

    @property
    def air(self) -> float:
        """The intermediate reward ``a_it``."""
        return fsum(term.value for term in self.terms)


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """The terms of the final reward, and the steps in order; every number is finite."""

    terms: tuple[Term, ...] = ()
    steps: tuple[ScoredStep, ...] = ()

    @property
    def final(self) -> float:
        """The final reward ``R_i``."""
        return fsum(term.value for term in self.terms)

    @property
    def total(self) -> float:
        """``X_i``: the final reward plus all intermediate ones."""
        return fsum(
            term.value for terms in (self.terms, *(step.terms for step in self.steps)) for term in terms
        )


def scored(trajectory: Trajectory, states: Sequence[bytes | None], *, air: float) -> ScoredRollout:
    """What estimators read of a trajectory. Intermediate rewards are multiplied by ``air``."""
    return ScoredRollout(
        _terms(trajectory.final),
        tuple(
            ScoredStep(_terms(step.terms, air), step.agent, state)
            for step, state in zip(trajectory.steps, states, strict=True)
        ),
    )


def _terms(terms: Sequence[RewardTerm], factor: float = 1.0) -> tuple[Term, ...]:
    return tuple(
        Term(term.name, term.weighted * factor, abs(term.weight) * factor)
        for term in terms
        if term.weight * factor
    )
