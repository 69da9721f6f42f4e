"""Measures what step-level credit is worth: ``python benchmarks/credit.py --help``.

Trains the calculator and the dispatcher under several ways of giving credit, with equal rollouts, from
several seeds, each run in one process. docs/benchmarks.md says what the numbers mean.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer
from credit_bench.arms import ARMS, RATES
from credit_bench.campaign import Job, Kept, run_all
from credit_bench.effort import EFFORTS, Effort, Result
from credit_bench.findings import final, findings, grouped, measurements
from credit_bench.report import plot, show, write_json
from rich.console import Console
from rich.table import Table

TUNING_SEED = 100


def main(
    environments: Annotated[str, typer.Option(help=f"Of {', '.join(ARMS)}.")] = ",".join(ARMS),
    subjects: Annotated[str, typer.Option(help="Ways of giving credit, by name. Default: all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, from seeds 0, 1, 2 …")] = 3,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time, each on one core; 0 takes all.")] = 0,
    waves: Annotated[int, typer.Option(min=0, help="Waves of rollouts in a run; 0 keeps the default.")] = 0,
    cache: Annotated[
        Path, typer.Option(help="Finished runs are kept here and not made again; remove it to start over.")
    ] = Path(".bench/credit.json"),
    tune: Annotated[
        bool, typer.Option("--tune", help=f"Try learning rates {RATES} from a seed of their own instead.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test; its numbers mean nothing.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Write a picture (PNG) here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when the goal is missed.")] = False,
) -> None:
    """Train agents under several ways of giving credit, and say which needed the fewest rollouts."""
    console = Console() if sys.stdout.isatty() else Console(width=170)
    chosen = _names("environments", environments, tuple(ARMS))
    wanted = _names(
        "subjects", subjects, tuple(dict.fromkeys(name for arms in ARMS.values() for name in arms))
    )
    efforts = {name: Effort.quick() if quick else EFFORTS[name].of(waves) for name in chosen}
    planned = [
        Job(environment, subject, arm.at(rate) if tune else arm, efforts[environment], seed)
        for seed in ([TUNING_SEED] if tune else range(1 if quick else seeds))
        for environment in chosen
        for subject, arm in ARMS[environment].items()
        if subject in wanted
        for rate in (RATES if tune else (arm.lr,))
    ]
    console.print(
        f"{len(planned)} runs, Python {platform.python_version()}, kept in {cache}", highlight=False
    )
    kept = Kept(cache)
    results = run_all(
        planned, kept, processes=jobs or os.cpu_count() or 1, report=lambda *made: _tell(console, *made)
    )
    if tune:
        console.print(_rates(results))
        return
    runs = grouped(results)
    measured = measurements(runs)
    found = findings(measured)
    show(console, measured, found)
    if json_file:
        write_json(json_file, measured)
    if plot_file:
        plot(plot_file, runs)
    if strict and not any(finding.met for finding in found if finding.case == "dispatch"):
        raise typer.Exit(1)


def _tell(console: Console, job: Job, result: Result) -> None:
    console.print(
        f"{job.environment} {job.subject} seed {job.seed} lr {job.arm.lr:g}: "
        f"{100 * result.success[0]:.1f} → {100 * result.success[-1]:.1f} % in {result.seconds:.0f} s",
        highlight=False,
    )


def _rates(results: list[tuple[Job, Result]]) -> Table:
    """Success at the end, by arm and learning rate."""
    table = Table("task", "credit", *(f"{rate:g}" for rate in RATES), title="Success at the end, %")
    for (environment, subject), made in grouped(results).items():
        table.add_row(environment, subject, *(f"{100 * final([one]):.1f}" for one in made))
    return table


def _names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip()) or known
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"--{option}: {', '.join(unknown)}; known are {', '.join(known)}")
    return names


if __name__ == "__main__":
    typer.run(main)
