"""Measures the gateway against what else could stand in its place: ``python benchmarks/gateway.py --help``.

One run starts everything it needs on this machine: a stub upstream, a broker, each gateway in turn, a load
generator. docs/benchmarks.md says what the numbers mean.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer
from gateway_bench.campaign import Campaign
from gateway_bench.cases import KINDS, Effort, Kind
from gateway_bench.goals import verdicts
from gateway_bench.leyden import Leyden
from gateway_bench.measure import Measurement, added
from gateway_bench.peers import AGENT_LIGHTNING, LITELLM, nginx_version
from gateway_bench.processes import Cores, allow_many_files
from gateway_bench.report import plot, read_json, show, write_json
from gateway_bench.subjects import AgentLightning, Direct, LiteLlm, Nginx, Subject
from rich.console import Console
from rich.markup import escape

SUBJECTS = ("direct", "nginx", "leyden", "agentlightning", "litellm")
PEERS = ("nginx", "litellm", "agentlightning")
QUICK = ("direct", "nginx", "leyden")
QUICK_KINDS = ("whole", "streamed", "trajectory")
QUIET_LOAD = 0.5


def main(
    subjects: Annotated[
        str, typer.Option(help=f"What to measure, of {', '.join(SUBJECTS)}. Default: all.")
    ] = "",
    peers: Annotated[
        str, typer.Option(help="Which peers may be installed under .bench/ when missing; none for none.")
    ] = ",".join(PEERS),
    cases: Annotated[str, typer.Option(help=f"Kinds of traffic, of {', '.join(KINDS)}. Default: all.")] = "",
    concurrency: Annotated[
        str, typer.Option(help="Connections of the whole and streamed cases.")
    ] = "1,32,256",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each case; the median counts.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a run.")] = 5.0,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test of a few seconds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every number here.")] = None,
    merge: Annotated[
        str,
        typer.Option(help="Earlier --json files to report too; --subjects none for them alone."),
    ] = "",
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Write a picture (PNG) here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a goal is missed.")] = False,
) -> None:
    """Measure the gateway, and others beside it, with a stub upstream and pinned cores.

    Exits with 1 when a completion that a client got is not on the log exactly once, or something died.
    """
    console = Console() if sys.stdout.isatty() else Console(width=150)
    effort = Effort.quick() if quick else Effort(_numbers(concurrency), runs, seconds)
    kinds = _kinds(_names("cases", cases or ",".join(QUICK_KINDS if quick else KINDS), KINDS))
    asked = subjects or ",".join(QUICK if quick else SUBJECTS)
    chosen = _names("subjects", "" if asked == "none" else asked, SUBJECTS)
    earlier = _earlier(merge)
    may_install = _names("peers", "" if peers == "none" else peers, PEERS)
    cores = Cores.of(sorted(os.sched_getaffinity(0)))
    _introduce(console, cores)
    allow_many_files()
    campaign = Campaign(_subjects(chosen, may_install), effort, cores, console)
    campaign.run(effort.cases(kinds))
    known = {(m.subject, m.case, m.metric): m for m in [*earlier, *campaign.measured]}
    measured = list({**known, **{(m.subject, m.case, m.metric): m for m in added(known.values())}}.values())
    reached = verdicts(measured)
    show(console, measured, reached)
    if json_file:
        write_json(json_file, measured)
    if plot_file:
        plot(plot_file, measured, concurrency=32 if 32 in effort.concurrency else effort.concurrency[0])
    for failure in campaign.failures:
        console.print(f"[red]failed:[/] {escape(failure)}", highlight=False)
    if campaign.failures or (strict and not all(verdict.met for verdict in reached)):
        raise typer.Exit(1)


def _introduce(console: Console, cores: Cores) -> None:
    console.print(
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}: {cores.describe()}"
    )
    console.print(f"Peers: {', '.join(_versions())}", highlight=False, markup=False)
    if os.getloadavg()[0] > QUIET_LOAD:
        console.print(
            f"The machine is not quiet (load {os.getloadavg()[0]:.1f}): do not quote these numbers."
        )


def _versions() -> list[str]:
    return [LITELLM.requirement, AGENT_LIGHTNING.requirement, nginx_version()]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def _names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"--{option}: {', '.join(unknown)}; known are {', '.join(known)}")
    return names


def _earlier(files: str) -> list[Measurement]:
    paths = [Path(name.strip()) for name in files.split(",") if name.strip()]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise typer.BadParameter(f"--merge: no such file: {', '.join(missing)}")
    return read_json(paths)


def _kinds(names: tuple[str, ...]) -> tuple[Kind, ...]:
    return tuple(kind for kind in KINDS if kind in names)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise typer.BadParameter("--concurrency: comma-separated whole numbers from 1, for example 1,32,256")
    return tuple(map(int, numbers))


def _subjects(chosen: tuple[str, ...], may_install: tuple[str, ...]) -> list[Subject]:
    known: dict[str, Subject] = {
        "direct": Direct(),
        "nginx": Nginx(),
        "leyden": Leyden(),
        "agentlightning": AgentLightning(install="agentlightning" in may_install),
        "litellm": LiteLlm(install="litellm" in may_install),
    }
    return [known[name] for name in SUBJECTS if name in chosen]


if __name__ == "__main__":
    typer.run(main)
