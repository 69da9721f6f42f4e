"""The results as a table for people, as JSON for programs, as a picture for the README."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from gateway_bench.goals import Verdict
from gateway_bench.measure import Measurement

COLUMNS = {
    "cpu_per_request": "µs/request",
    "cpu_per_chunk": "µs/chunk",
    "rps": "req/s",
    "latency_p50": "p50 ms",
    "latency_p99": "p99 ms",
    "added_p50": "added p50",
    "added_p99": "added p99",
    "added_first_byte_p50": "1st byte",
    "memory": "MB",
    "load_core_busy": "load %",
    "errors": "errors",
}
FULL = 95.0
"""A load core busier than this limits what was measured."""


def rows(measured: Sequence[Measurement]) -> dict[tuple[str, str], dict[str, Measurement]]:
    """Metrics by case and subject, in the order they were measured."""
    found: dict[tuple[str, str], dict[str, Measurement]] = {}
    for measurement in measured:
        found.setdefault((measurement.case, measurement.subject), {})[measurement.metric] = measurement
    return found


def show(console: Console, measured: Sequence[Measurement], verdicts: Sequence[Verdict]) -> None:
    """Print what was measured and which goals were met."""
    console.print(_comparison(measured))
    console.print(_others(measured))
    console.print(_goals(verdicts))
    full = [f"{c} {s}" for (c, s), m in rows(measured).items() if _value(m, "load_core_busy") > FULL]
    if full:
        console.print(
            f"The load generator's core was full, so requests/s is a lower bound: {', '.join(full)}"
        )


def _comparison(measured: Sequence[Measurement]) -> Table:
    table = Table("case", "subject", *COLUMNS.values(), title="CPU, throughput, latency in ms, memory")
    last = ""
    for (case, subject), metrics in rows(measured).items():
        if "rps" not in metrics:
            continue
        if case != last:
            table.add_section()
        table.add_row(case if case != last else "", subject, *(_shown(metrics, name) for name in COLUMNS))
        last = case
    return table


def _others(measured: Sequence[Measurement]) -> Table:
    """What only Leyden is measured for."""
    table = Table("case", "subject", "metric", "value", "unit", title="Log, memory, processes")
    for m in measured:
        if m.metric not in COLUMNS and not m.metric.endswith(("_per_request", "_busy", "first_byte_p50")):
            table.add_row(m.case, m.subject, m.metric, f"{m.value:,.6g}", m.unit)
    return table


def _goals(verdicts: Sequence[Verdict]) -> Table:
    table = Table("goal", "bound", "measured", "", title="Goals")
    for verdict in verdicts:
        measured = f"{verdict.value:,.4g} {verdict.goal.unit} ({verdict.subject})"
        table.add_row(
            verdict.goal.what, verdict.goal.bound, measured, "met" if verdict.met else "[red]missed[/]"
        )
    return table


def _value(metrics: dict[str, Measurement], name: str) -> float:
    return metrics[name].value if name in metrics else 0.0


def _shown(metrics: dict[str, Measurement], name: str) -> str:
    if name not in metrics:
        return "–"
    value = metrics[name].value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}"


def write_json(path: Path, measured: Sequence[Measurement]) -> None:
    """A list of {subject, case, metric, unit, value, runs}."""
    path.write_text(json.dumps([asdict(measurement) for measurement in measured], indent=1) + "\n")


def read_json(paths: Sequence[Path]) -> list[Measurement]:
    """What ``write_json`` wrote, file after file; of equal measurements the last."""
    found: dict[tuple[str, str, str], Measurement] = {}
    for path in paths:
        for m in msgspec.json.decode(path.read_bytes(), type=list[Measurement]):
            found[m.subject, m.case, m.metric] = m
    return list(found.values())


def plot(path: Path, measured: Sequence[Measurement], *, concurrency: int) -> None:
    """CPU and throughput of every gateway, whole and streamed, as horizontal bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [("cpu_per_request", "CPU per request, µs (log)"), ("rps", "requests per second (log)")]
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 4), layout="constrained")
    for axis, (metric, title) in zip(axes, panels, strict=True):
        bars = _bars(measured, metric, concurrency)
        labels, values = [label for label, _ in bars], [value for _, value in bars]
        drawn = axis.barh(labels, values, color=["#c44e52" if "leyden" in n else "#4c72b0" for n in labels])
        axis.bar_label(drawn, labels=[f"{value:,.0f}" for value in values], padding=3)
        axis.set(xscale="log", title=title)
        axis.invert_yaxis()
        axis.margins(x=0.2)
    figure.suptitle(
        f"{concurrency} concurrent calls, 500 prompt and 200 sampled tokens with log-probabilities"
    )
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _bars(measured: Sequence[Measurement], metric: str, concurrency: int) -> list[tuple[str, float]]:
    kinds = {f"whole-{concurrency}": "", f"streamed-{concurrency}": ", streamed"}
    return [(m.subject + kinds[m.case], m.value) for m in measured if m.metric == metric and m.case in kinds]
