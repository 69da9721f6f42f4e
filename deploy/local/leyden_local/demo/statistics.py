"""Success rates with honest error bars."""

from dataclasses import dataclass
from math import sqrt

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """``successes`` out of ``trials``."""

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The observed share; 0 without trials."""
        return self.successes / self.trials if self.trials else 0.0

    def interval(self, z: float = Z_95) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927), 95 % by default; (0, 1) without trials."""
        n = self.trials
        if n == 0:
            return 0.0, 1.0
        p = self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"
