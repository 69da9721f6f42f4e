"""The results as a table for people, as JSON for programs, as a picture for the documentation."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from credit_bench.findings import GOAL, Finding, Measurement, Runs, mean_curve, smoothed

COLUMNS = {
    "success_final": "success at the end %",
    "heldout_after": "held out %",
    "success_mean": "over the run %",
    "rollouts_to_broadcast": "rollouts to broadcast's end",
    "share_of_broadcast": "share",
    "groups_dropped": "groups dropped",
    "learner_steps": "steps",
    "seconds": "s",
}
COLOURS = ("#555555", "#9a9a9a", "#c44e52", "#4c72b0", "#55a868", "#8172b2")


def show(console: Console, measured: Sequence[Measurement], found: Sequence[Finding]) -> None:
    """Print what was measured and what won."""
    table = Table("task", "credit", *COLUMNS.values(), title="Means over seeds [each seed]")
    last = ""
    for case, subject in dict.fromkeys((m.case, m.subject) for m in measured):
        if case != last:
            table.add_section()
        by_metric = {m.metric: m for m in measured if (m.case, m.subject) == (case, subject)}
        table.add_row(case if case != last else "", subject, *(_shown(by_metric.get(c)) for c in COLUMNS))
        last = case
    console.print(table)
    for finding in found:
        console.print(said(finding), markup=False, highlight=False)


def said(finding: Finding) -> str:
    """What came of it, in a sentence."""
    if finding.share is None:
        return f"{finding.case}: no step-level credit reached what broadcast ended with: goal missed."
    verdict = "goal met" if finding.met else "goal missed"
    return (
        f"{finding.case}: {finding.subject} reached what broadcast ended with in {finding.share:.0%} "
        f"of the rollouts; the goal for the long task is {GOAL:.0%}: {verdict}."
    )


def _shown(measurement: Measurement | None) -> str:
    if measurement is None:
        return "–"
    each = ", ".join(map(_number, measurement.runs))
    if measurement.metric in ("success_final", "heldout_after", "rollouts_to_broadcast"):
        return f"{_number(measurement.value)} [{each}]"
    return _number(measurement.value)


def _number(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def write_json(path: Path, measured: Sequence[Measurement]) -> None:
    """A list of {subject, case, metric, unit, value, runs}; null stands for what was never reached."""
    path.write_text(json.dumps([asdict(measurement) for measurement in measured], indent=1) + "\n")


def plot(path: Path, runs: Runs) -> None:
    """Success against rollouts, a panel for each environment: means over seeds, and their range."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(case for case, _ in runs))
    figure, axes = plt.subplots(
        1, len(cases), figsize=(5.5 * len(cases), 4), layout="constrained", squeeze=False
    )
    for axis, case in zip(axes[0], cases, strict=True):
        subjects = [subject for of_case, subject in runs if of_case == case]
        for colour, subject in zip(COLOURS, subjects, strict=False):
            made = runs[case, subject]
            curves = [[100 * value for value in smoothed(result.success)] for _, result in made]
            rollouts = [(n + 1) * made[0][0].effort.wave for n in range(len(curves[0]))]
            axis.plot(rollouts, mean_curve(curves), label=subject, color=colour, linewidth=1.8)
            low, high = (list(map(pick, zip(*curves, strict=True))) for pick in (min, max))
            axis.fill_between(rollouts, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set(title=case, xlabel="rollouts", ylabel="success, %", ylim=(0, 100))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
