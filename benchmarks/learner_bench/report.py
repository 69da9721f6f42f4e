"""The results as a table for people and as a picture for the documentation."""

from collections.abc import Sequence
from pathlib import Path

from gateway_bench.measure import Measurement
from rich.console import Console
from rich.table import Table

from learner_bench.findings import Verdict

COLUMNS = {
    "tokens_per_second": "tokens/s",
    "tokens_per_cpu_second": "tokens/s of CPU",
    "step": "s/step",
    "memory": "MB",
    "mfu": "MFU %",
    "pipeline": "pipeline %",
    "outside_passes": "outside passes %",
    "grad_norm": "gradient",
}


def show(console: Console, measured: Sequence[Measurement], reached: Sequence[Verdict]) -> None:
    """Print what was measured and which goals were met."""
    table = Table("case", "subject", *COLUMNS.values(), title="A GRPO step")
    last = ""
    for case, subject in dict.fromkeys((m.case, m.subject) for m in measured):
        if case != last:
            table.add_section()
        values = {m.metric: m.value for m in measured if (m.case, m.subject) == (case, subject)}
        shown = (f"{values[name]:,.4g}" if name in values else "–" for name in COLUMNS)
        table.add_row(case if case != last else "", subject, *shown)
        last = case
    console.print(table)
    goals = Table("goal", "bound", "measured", "", title="Goals")
    for verdict in reached:
        value = f"{verdict.value:.3g} ({verdict.against})"
        goals.add_row(verdict.goal, verdict.bound, value, "met" if verdict.met else "[red]missed[/]")
    console.print(goals)


def plot(path: Path, measured: Sequence[Measurement]) -> None:
    """Tokens a second and memory of every subject, as horizontal bars, a row of panels for each case."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(m.case for m in measured))
    panels = [("tokens_per_second", "tokens per second"), ("memory", "memory, MB")]
    figure, grid = plt.subplots(
        len(cases), len(panels), figsize=(10, 2.4 * len(cases)), layout="constrained", squeeze=False
    )
    for case, axes in zip(cases, grid, strict=True):
        for axis, (metric, title) in zip(axes, panels, strict=True):
            bars = {m.subject: m.value for m in measured if (m.case, m.metric) == (case, metric)}
            colours = ["#c44e52" if name.startswith("leyden") else "#4c72b0" for name in bars]
            drawn = axis.barh(list(bars), list(bars.values()), color=colours)
            axis.bar_label(drawn, labels=[f"{value:,.0f}" for value in bars.values()], padding=3)
            axis.set(title=f"{case}: {title}")
            axis.invert_yaxis()
            axis.margins(x=0.2)
    figure.savefig(path, dpi=140)
    plt.close(figure)
