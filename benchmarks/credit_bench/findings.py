"""From runs to the numbers that are reported: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from credit_bench.arms import BROADCAST, STEP_LEVEL
from credit_bench.campaign import Job
from credit_bench.effort import Result

Runs = Mapping[tuple[str, str], Sequence[tuple[Job, Result]]]
"""By environment and subject, one a seed."""

WINDOW = 0.125
"""Share of a run over which success is averaged: single waves are noisy."""
GOAL = 0.5
ROUNDING = 1e-9


@dataclass(frozen=True)
class Measurement:
    """One number, and those of the runs it comes from. None: never reached."""

    subject: str
    case: str
    metric: str
    unit: str
    value: float | None
    runs: tuple[float | None, ...]


@dataclass(frozen=True)
class Finding:
    """The best step-level arm of an environment: its rollouts, to all of those that broadcast had."""

    case: str
    subject: str
    share: float | None

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.share is not None and self.share <= GOAL


def grouped(results: Iterable[tuple[Job, Result]]) -> dict[tuple[str, str], list[tuple[Job, Result]]]:
    """Runs by environment and subject, in the order given."""
    found: dict[tuple[str, str], list[tuple[Job, Result]]] = {}
    for job, result in results:
        found.setdefault((job.environment, job.subject), []).append((job, result))
    return found


def smoothed(success: Sequence[float]) -> list[float]:
    """The mean of the last ``WINDOW`` of a run up to each wave; the first waves have fewer behind them."""
    window = max(1, round(len(success) * WINDOW))
    return [fmean(success[max(0, wave + 1 - window) : wave + 1]) for wave in range(len(success))]


def mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    """Wave by wave over the runs."""
    return [fmean(values) for values in zip(*curves, strict=True)]


def reached(curve: Sequence[float], target: float, wave: int) -> float | None:
    """Rollouts until a smoothed curve is at ``target`` after a whole window, or None."""
    first = max(1, round(len(curve) * WINDOW))
    return next(
        (
            float(n * wave)
            for n, value in enumerate(curve, start=1)
            if n >= first and value >= target - ROUNDING
        ),
        None,
    )


def measurements(runs: Runs) -> list[Measurement]:
    """Every number of every environment and subject."""
    found = []
    for (case, subject), made in runs.items():
        base = runs.get((case, BROADCAST))
        found += _of_one(case, subject, made, base)
    return found


def findings(measured: Sequence[Measurement]) -> list[Finding]:
    """For every environment, the step-level arm that needed the fewest rollouts."""
    shares: dict[str, list[Finding]] = {}
    for m in measured:
        if m.metric == "share_of_broadcast" and m.subject in STEP_LEVEL:
            shares.setdefault(m.case, []).append(Finding(m.case, m.subject, m.value))
    return [min(each, key=lambda f: float("inf") if f.share is None else f.share) for each in shares.values()]


def final(made: Sequence[tuple[Job, Result]]) -> float:
    """Mean success over seeds in the last window of training."""
    return mean_curve([smoothed(result.success) for _, result in made])[-1]


def _of_one(
    case: str,
    subject: str,
    made: Sequence[tuple[Job, Result]],
    base: Sequence[tuple[Job, Result]] | None,
) -> list[Measurement]:
    results = [result for _, result in made]
    curves = [smoothed(result.success) for result in results]

    def measured(metric: str, unit: str, runs: Sequence[float]) -> Measurement:
        return Measurement(subject, case, metric, unit, fmean(runs), tuple(runs))

    found = [
        measured("success_final", "%", [100 * curve[-1] for curve in curves]),
        measured("success_mean", "%", [100 * fmean(result.success) for result in results]),
        measured("heldout_before", "%", [100 * result.heldout_before for result in results]),
        measured("heldout_after", "%", [100 * result.heldout for result in results]),
        measured("groups_dropped", "groups", [float(result.groups_dropped) for result in results]),
        measured("learner_steps", "steps", [float(result.steps) for result in results]),
        measured("seconds", "s", [result.seconds for result in results]),
    ]
    if base:
        found += _against(case, subject, made, curves, final(base))
    return found


def _against(
    case: str,
    subject: str,
    made: Sequence[tuple[Job, Result]],
    curves: Sequence[Sequence[float]],
    target: float,
) -> list[Measurement]:
    effort = made[0][0].effort
    each = tuple(reached(curve, target, effort.wave) for curve in curves)
    together = reached(mean_curve(curves), target, effort.wave)
    share = None if together is None else together / effort.rollouts
    return [
        Measurement(subject, case, "rollouts_to_broadcast", "rollouts", together, each),
        Measurement(
            subject,
            case,
            "share_of_broadcast",
            "ratio",
            share,
            tuple(None if one is None else one / effort.rollouts for one in each),
        ),
    ]
