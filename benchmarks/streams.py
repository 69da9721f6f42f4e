"""Measures the services that keep rollouts open: ``python benchmarks/streams.py --help``.

Starts a broker, fills its topics, and lets one reward and one credit process, each on one core, work through
them. docs/benchmarks.md says what the numbers mean.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from gateway_bench.processes import Cores, allow_many_files
from gateway_bench.report import write_json
from rich.console import Console
from rich.table import Table
from streams_bench.campaign import CREDIT, REWARD, Load, measure

GOALS = {
    "kept_up": (2_000, "at least"),
    "bytes_per_unique_token_byte": (1.5, "at most"),
    "restart": (10, "at most"),
    "lost": (0, "at most"),
    "contradictory": (0, "at most"),
}


def main(
    subjects: Annotated[str, typer.Option(help="Of reward, credit.")] = "reward,credit",
    opened: Annotated[int, typer.Option(min=8, help="Rollouts that are open.")] = 10_000,
    passing: Annotated[int, typer.Option(min=8, help="Rollouts that begin and end meanwhile.")] = 6_000,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a rollout, of 1,000 tokens each.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a goal is missed.")] = False,
) -> None:
    """Measure reward and credit on one core each."""
    allow_many_files()
    cores = Cores.of(sorted(os.sched_getaffinity(0)))
    by_name = {"reward": REWARD, "credit": CREDIT}
    load = Load(opened=opened, passing=passing, steps=steps)
    found = [one for name in subjects.split(",") for one in measure(by_name[name], load, cores)]
    table, missed = Table("subject", "case", "metric", "value", "unit", "goal"), 0
    for one in found:
        goal, bound = GOALS.get(one.metric, (None, ""))
        met = goal is None or (one.value >= goal if bound == "at least" else one.value <= goal)
        missed += not met
        said = "" if goal is None else f"{bound} {goal:g}: {'met' if met else 'MISSED'}"
        table.add_row(one.subject, one.case, one.metric, f"{one.value:,.6g}", one.unit, said)
    Console(width=150).print(table)
    if json_file:
        write_json(json_file, found)
    if strict and missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
