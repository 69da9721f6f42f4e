"""What a step of training came to."""

from dataclasses import dataclass

from leyden_learner.health import Unhealthy


@dataclass(frozen=True, slots=True)
class Trained:
    """The weights moved."""

    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Skipped:
    """The weights are what they were before the step."""

    reason: Unhealthy
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Ruined:
    """The weights are neither the old ones nor usable; they must be loaded again."""

    reason: Unhealthy
    metrics: dict[str, float]


Outcome = Trained | Skipped | Ruined
