"""Comparing numbers of one group. Sums are exactly rounded, so that the order of rollouts changes nothing."""

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import fmean

EPS = 1e-6
NEGLIGIBLE = 1e-9
"""Differences below this share of the numbers compared, or below this if they are small, count as none."""


def spread(values: Sequence[float]) -> float:
    """Largest less smallest; differences that rounding alone explains are 0."""
    low, high = min(values), max(values)
    return 0.0 if high - low <= NEGLIGIBLE * max(1.0, abs(low), abs(high)) else high - low


def comparable(values: Sequence[float]) -> bool:
    """Whether there are two values that differ."""
    return len(values) > 1 and spread(values) > 0.0


def centred(values: Sequence[float]) -> list[float]:
    """Each less the mean of all; one value, or equal values, give zeros."""
    if not comparable(values):
        return [0.0] * len(values)
    mean = fmean(values)
    return [value - mean for value in values]


def standardised(values: Sequence[float], *, min_std: float = 0.0) -> list[float]:
    """Centred and divided by the sample deviation, or by ``min_std`` when that is larger.

    One value, or equal values, give zeros. ``EPS`` is added to the divisor.
    """
    deviations = centred(values)
    largest = max(map(abs, deviations), default=0.0)
    if largest == 0.0:
        return deviations
    variance = fsum((deviation / largest) ** 2 for deviation in deviations) / (len(values) - 1)
    std = max(largest * sqrt(variance), min_std)
    return [deviation / (std + EPS) for deviation in deviations]


def against_the_others(values: Sequence[float]) -> list[float]:
    """Each less the mean of the others; one value, or equal values, give zeros."""
    size = len(values)
    if not comparable(values):
        return [0.0] * size
    total = fsum(values)
    return [(size * value - total) / (size - 1) for value in values]
