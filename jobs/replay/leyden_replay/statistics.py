"""Comparing two lists of numbers: how each is spread, and whether one orders things like the other."""

from collections.abc import Iterable, Sequence
from math import floor, fsum
from statistics import StatisticsError, correlation, fmean, stdev

from pydantic import BaseModel, ConfigDict, Field

SAME = 1e-12
"""Numbers no further apart than this, relative to the larger, are equal."""


class Distribution(BaseModel):
    """How numbers are spread. ``std`` is the sample deviation, 0 for one number."""

    model_config = ConfigDict(frozen=True)

    count: int
    mean: float
    std: float
    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float


class GroupOrder(BaseModel):
    """Pairs of rollouts of one task, by what became of their order, which is what estimators look at."""

    model_config = ConfigDict(frozen=True)

    kept: int = Field(default=0, description="The same one is better, or they are equal, before and after.")
    reversed: int = Field(default=0, description="The other one is better now.")
    newly_told_apart: int = Field(default=0, description="Were equal.")
    newly_equal: int = Field(default=0, description="Are equal.")


def distribution(values: Sequence[float]) -> Distribution | None:
    """None for no numbers."""
    if not values:
        return None
    ordered = sorted(values)
    return Distribution(
        count=len(ordered),
        mean=fmean(ordered),
        std=stdev(ordered) if len(ordered) > 1 else 0.0,
        minimum=ordered[0],
        p10=quantile(ordered, 0.1),
        median=quantile(ordered, 0.5),
        p90=quantile(ordered, 0.9),
        maximum=ordered[-1],
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the two nearest of ascending numbers (Hyndman and Fan's type 7)."""
    place = share * (len(ordered) - 1)
    low = floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def rank_correlation(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Spearman's rho, equal numbers sharing their mean rank; None when a side is all equal or has one."""
    try:
        return correlation(ranks(before), ranks(after))
    except StatisticsError:
        return None


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; numbers that only rounding tells apart get the mean of the ranks they take up."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and not sign(values[order[stop]], values[order[start]]):
            stop += 1
        for place in order[start:stop]:
            found[place] = (start + 1 + stop) / 2
        start = stop
    return found


def group_order(groups: Iterable[Sequence[tuple[float, float]]]) -> GroupOrder:
    """Over all pairs of (before, after) that are in one group."""
    counts = {"kept": 0, "reversed": 0, "newly_told_apart": 0, "newly_equal": 0}
    for group in groups:
        for i, (before, after) in enumerate(group):
            for other_before, other_after in group[:i]:
                counts[_fate(sign(before, other_before), sign(after, other_after))] += 1
    return GroupOrder(**counts)


def _fate(before: int, after: int) -> str:
    if before == after:
        return "kept"
    if before == 0:
        return "newly_told_apart"
    return "newly_equal" if after == 0 else "reversed"


def sign(one: float, other: float) -> int:
    """Which is larger, 1, 0 or -1; what rounding alone explains is no difference."""
    if abs(one - other) <= SAME * max(abs(one), abs(other)):
        return 0
    return 1 if one > other else -1


def mean_change(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean of after less before; 0 for none."""
    return fsum(after - before for before, after in pairs) / len(pairs) if pairs else 0.0
