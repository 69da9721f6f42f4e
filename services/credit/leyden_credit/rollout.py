"""The value that estimators compare: what one rollout earned, and when."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoredRollout:
    """The final reward ``R_i`` and the intermediate rewards ``a_it`` of its steps, all finite."""

    final: float
    air: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """``R_i`` plus the sum of the intermediate rewards."""
        return self.final + sum(self.air)
