"""Measures the built-in engine beside vLLM: ``python benchmarks/inference.py --help``.

Each is started as users start it, over the same model, and asked the same by the same clients.
docs/benchmarks.md says what the numbers mean.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from gateway_bench.measure import Measurement, percentile
from gateway_bench.report import write_json
from inference_bench.load import load
from inference_bench.subjects import ROOT, SUBJECTS, SubjectFailed, cpu_seconds, serving
from rich.console import Console
from rich.table import Table

console = Console(width=150)


def main(
    subjects: Annotated[str, typer.Option(help=f"Of {', '.join(SUBJECTS)}.")] = ",".join(SUBJECTS),
    concurrency: Annotated[str, typer.Option(help="Clients at once.")] = "1,8,32,128",
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a run.")] = 5.0,
    runs: Annotated[int, typer.Option(min=1, help="Runs of a case, of which the median counts.")] = 3,
    vllm: Annotated[Path, typer.Option(help="The program vllm.")] = ROOT / ".venv-vllm" / "bin" / "vllm",
    model: Annotated[Path, typer.Option(help="Hugging Face folder.")] = ROOT / "examples/calculator/seed",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
) -> None:
    """Measure tokens a second of engines."""
    busy = os.getloadavg()[0]
    found: list[Measurement] = []
    for subject in subjects.split(","):
        with tempfile.NamedTemporaryFile(suffix=".log") as log:
            try:
                with serving(subject, vllm, model, Path(log.name)) as (url, pid):
                    for clients in map(int, concurrency.split(",")):
                        found += _case(subject, url, pid, clients, seconds, runs)
            except (SubjectFailed, OSError) as error:
                console.print(f"{subject}: {error}")
                raise typer.Exit(1) from None
    table = Table(
        "subject", "clients", "tokens/s", "tokens/CPU s", "requests/s", "p50 ms", "p99 ms", "failures"
    )
    for case in dict.fromkeys((one.subject, one.case) for one in found):
        values = {one.metric: one.value for one in found if (one.subject, one.case) == case}
        table.add_row(*case, *(f"{values[name]:,.0f}" for name in METRICS))
    console.print(table)
    console.print(f"Load average of the machine before: {busy:.1f} on {os.cpu_count()} cores.")
    if json_file:
        write_json(json_file, found)
    if any(one.metric == "failures" and one.value for one in found):
        raise typer.Exit(1)


METRICS = {
    "tokens": "tokens/s",
    "per_cpu": "tokens/s",
    "requests": "requests/s",
    "p50": "ms",
    "p99": "ms",
    "failures": "requests",
}


def _case(subject: str, url: str, pid: int, clients: int, seconds: float, runs: int) -> list[Measurement]:
    measured: dict[str, list[float]] = {name: [] for name in METRICS}
    for run in range(runs):
        before = cpu_seconds(pid)
        counted = asyncio.run(load(url, clients, seconds, run))
        measured["per_cpu"].append(counted.all_tokens / (cpu_seconds(pid) - before))
        latencies = sorted(counted.latencies_s) or [float("nan")]
        measured["tokens"].append(counted.tokens / seconds)
        measured["requests"].append(len(counted.latencies_s) / seconds)
        measured["p50"].append(1000 * percentile(latencies, 0.5))
        measured["p99"].append(1000 * percentile(latencies, 0.99))
        measured["failures"].append(float(counted.failures))
    console.print(
        f"{subject} {clients}: {', '.join(f'{value:,.0f}' for value in measured['tokens'])} tokens/s"
    )
    return [Measurement.of(subject, str(clients), name, METRICS[name], measured[name]) for name in METRICS]


if __name__ == "__main__":
    typer.run(main)
