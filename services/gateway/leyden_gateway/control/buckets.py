"""Token buckets: an allowance that fills at a steady rate, up to a capacity."""

from dataclasses import dataclass
from typing import Self

_ROUNDING = 1e-6
"""Who waited as long as it was told must not be told to wait another nanosecond."""


@dataclass(slots=True)
class Bucket:
    """Starts full. A charge may take it below zero: a debt, paid back by waiting. Times are seconds."""

    per_s: float
    capacity: float
    level: float
    at: float

    @classmethod
    def full(cls, per_s: float, capacity: float, now: float) -> Self:
        """A bucket nobody has taken from."""
        return cls(per_s, capacity, capacity, now)

    def fill(self, now: float) -> float:
        """What it holds at ``now``; a clock that goes back adds nothing."""
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.per_s)
        self.at = max(self.at, now)
        return self.level

    def charge(self, amount: float, now: float) -> None:
        """Take ``amount``, whether it is there or not."""
        self.level = self.fill(now) - amount

    def wait_s(self, amount: float, now: float) -> float:
        """How long until it holds ``amount``; 0 when it does."""
        missing = amount - self.fill(now)
        return missing / self.per_s if missing > _ROUNDING else 0.0
