"""Measures a GRPO step of the learner, of TRL and of verl's engine: ``python benchmarks/learner.py --help``.

Every subject gets the same model and the same batch, in a process and an environment of its own.
docs/benchmarks.md says what the numbers mean.
"""

import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from gateway_bench.report import read_json, write_json
from learner_bench.campaign import OURS_PACKED, OURS_PADDED, SUBJECTS, Campaign, Effort
from learner_bench.findings import disagreements, measurements, verdicts
from learner_bench.report import plot, show
from learner_bench.workload import CASES
from rich.console import Console
from rich.markup import escape

PEERS = ("trl", "verl")
QUICK = f"{OURS_PACKED},{OURS_PADDED}"
QUIET_LOAD = 0.5


def main(
    subjects: Annotated[str, typer.Option(help=f"Of {', '.join(SUBJECTS)}. Default: all.")] = "",
    cases: Annotated[str, typer.Option(help=f"Kinds of batches, of {', '.join(CASES)}.")] = ",".join(CASES),
    peers: Annotated[
        str, typer.Option(help="Which peers may be installed under .bench/ when missing; none for none.")
    ] = ",".join(PEERS),
    groups: Annotated[int, typer.Option(min=1, help="Tasks of a batch, with four rollouts each.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Steps that count; the median does.")] = 3,
    model: Annotated[str, typer.Option(help="10M or 1M random parameters, or a folder.")] = "10M",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of torch; 0 is a core each.")] = 0,
    micro_batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a pass.")] = 16_384,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    peak_tflops: Annotated[float, typer.Option(min=0, help="Of the device, for MFU; 0 leaves it out.")] = 0.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: ours, a step, a small model.")
    ] = False,
    merge: Annotated[
        str, typer.Option(help="Earlier --json files to report too; --subjects none for them alone.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Write a picture (PNG) here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a goal is missed.")] = False,
) -> None:
    """Measure steps. Exits with 1 when a subject failed or did not compute the same step."""
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if os.getloadavg()[0] > QUIET_LOAD:
        console.print(f"Busy (load {os.getloadavg()[0]:.1f}): CPU time with --threads 1 says most.")
    asked = subjects or (QUICK if quick else ",".join(SUBJECTS))
    chosen = [SUBJECTS[name] for name in _names("" if asked == "none" else asked, SUBJECTS)]
    effort = Effort(
        groups=2 if quick else groups,
        runs=1 if quick else runs,
        model="1M" if quick else model,
        threads=threads,
        micro_batch_tokens=micro_batch_tokens,
        device=device,
        precision=precision,
    )
    measured = read_json([Path(name) for name in merge.split(",") if name])
    with tempfile.TemporaryDirectory(prefix="leyden-bench-") as folder:
        campaign = Campaign(effort, Path(folder), console, _names("" if peers == "none" else peers, PEERS))
        for found in campaign.run(chosen, [CASES[name] for name in _names(cases, CASES)]):
            measured += measurements(found, peak_tflops)
    reached, wrong = verdicts(measured), disagreements(measured)
    show(console, measured, reached)
    if json_file:
        write_json(json_file, measured)
    if plot_file:
        plot(plot_file, measured)
    for failure in [*campaign.failures, *wrong]:
        console.print(f"[red]failed:[/] {escape(failure)}", highlight=False)
    if campaign.failures or wrong or (strict and not all(verdict.met for verdict in reached)):
        raise typer.Exit(1)


def _names(given: str, known: Collection[str]) -> list[str]:
    """A list of names, each of them known."""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    return names


if __name__ == "__main__":
    typer.run(main)
