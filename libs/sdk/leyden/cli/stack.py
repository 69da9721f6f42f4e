"""``leyden up | status | logs | down | demo``: the embedded stack on this machine."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from leyden.cli.console import DEFAULT_DIRECTORY, Failed, errors, output
from leyden_platform.environment import CLIENTS

if TYPE_CHECKING:
    from leyden_local.config import StackConfig
    from leyden_local.state import StackState

Directory = Annotated[
    Path,
    typer.Option(
        "--dir", file_okay=False, help="Folder of the stack's state, logs, database and checkpoints."
    ),
]

CALCULATOR = "calculator"
NO_STACK = 3
SERVICE_SETTING = re.compile(
    "LEYDEN_(GATEWAY|RUNNER|REWARD|CREDIT|LEARNER|REGISTRY|INFERENCE|CATALOGUE|DATABASE|OBJECTS)_"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(status)
    app.command()(logs)
    app.command()(down)
    app.command()(demo)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Import the local stack, and turn its errors into sentences."""
    try:
        from pydantic import ValidationError

        from leyden.registry import RegistryFailed
        from leyden_local.demo.log import DemoFailed
        from leyden_local.postgres import PostgresFailed
        from leyden_local.stack import NotRunning
        from leyden_local.supervisor import StackFailed
        from leyden_platform.messaging import Unavailable
    except ImportError as error:
        raise Failed(
            escape(f"the local stack is not installed ({error}); pip install 'leyden[local]'")
        ) from error
    try:
        yield
    except ValidationError as error:
        raise Failed(
            "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        ) from None
    except (DemoFailed, NotRunning, PostgresFailed, RegistryFailed, StackFailed, Unavailable) as error:
        raise Failed(escape(str(error))) from None


def _pairs(values: list[str], form: str) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise Failed(f"{value!r}: write {form}")
        pairs[name] = rest
    return pairs


def up(
    directory: Directory = DEFAULT_DIRECTORY,
    policy: Annotated[str, typer.Option(help="Name of the policy to serve and train.")] = CALCULATOR,
    model: Annotated[
        Path | None,
        typer.Option(help="Hugging Face folder that becomes its version 0. Default: the calculator's seed."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(help="NAME=module:function, called with a task's input. Repeatable."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="NAME=module:function, called with a trajectory. Repeatable."),
    ] = None,
    path: Annotated[list[Path] | None, typer.Option(help="Folder with your modules. Repeatable.")] = None,
    train: Annotated[bool, typer.Option(help="Run a learner; --no-train only serves and records.")] = True,
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 0,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free port.")] = 0,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="LEYDEN_…=VALUE for every service. Repeatable.")
    ] = None,
) -> None:
    """Start the stack in the background and wait until all of it is ready.

    Without options it serves and trains the calculator example of this repository. Running it again while
    the stack runs changes nothing.
    """
    with _plain_errors():
        from leyden_local import stack
        from leyden_local.config import StackConfig, calculator

        changes = {
            "train": train,
            "gateway_port": gateway_port,
            "kafka_port": kafka_port,
            "settings": _pairs(setting or [], "--set LEYDEN_NAME=VALUE"),
        }
        _tell_ignored()
        if model is None and not agent:
            if policy != CALCULATOR or reward or path:
                raise Failed(
                    "--policy, --reward and --path go with --model or --agent; without these the calculator "
                    "example is served"
                )
            config = calculator(_repository(), directory, **changes)
        else:
            agents = _pairs(agent or [], "--agent NAME=package.module:function")
            config = StackConfig(
                directory=directory,
                policy=policy,
                model=model,
                agents={name: {"callable": target} for name, target in agents.items()},
                rewards=_pairs(reward or [], "--reward NAME=package.module:function"),
                path=path or [],
                **changes,
            )
        state = _start(config, stack.running(directory) is not None)
        _show(state, stack.readiness(state))


def _tell_ignored() -> None:
    """A setting in the shell that changes nothing would be a riddle."""
    ignored = sorted(name for name in os.environ if SERVICE_SETTING.match(name) and name not in CLIENTS)
    if ignored:
        errors.print(
            f"leyden: not handed to the services: {', '.join(ignored)}; give them with --set NAME=VALUE",
            highlight=False,
            soft_wrap=True,
        )


def _start(config: "StackConfig", again: bool) -> "StackState":
    from leyden_local import stack

    if again:
        output.print(f"A stack already runs in {config.directory}.")
    with output.status("starting") as shown:
        return stack.start(
            config,
            detached=True,
            on_change=lambda state: shown.update(f"{state.phase}: {', '.join(state.processes)}"),
        )


def _repository() -> Path:
    """The clone that holds the examples: the working folder, or where this package was installed from."""
    for root in (Path.cwd(), *Path(__file__).resolve().parents):
        if (root / "examples" / "calculator" / "seed" / "config.json").is_file():
            return root
    raise Failed(
        "examples/calculator is not here: run this in a clone of the repository, or name your own --model, "
        "--agent, --reward and --path"
    )


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Show whether the stack runs, where to reach it, and which services are ready.

    Exit status 0 when all is ready, 1 when something is not, 3 when no stack runs.
    """
    with _plain_errors():
        from leyden_local import stack

        state = stack.running(directory)
        if state is None and as_json:
            typer.echo(json.dumps({"phase": "stopped", "processes": {}, "endpoints": {}}))
            raise typer.Exit(NO_STACK)
        if state is None:
            output.print(f"No stack runs in {directory}. Start one with: leyden up")
            if (last := stack.last_error(directory)) is not None:
                output.print(f"The last one failed: {last}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(NO_STACK)
        readiness = stack.readiness(state)
    if as_json:
        typer.echo(json.dumps(_told(state, readiness)))
    else:
        _show(state, readiness)
    raise typer.Exit(0 if state.phase == "running" and all(map(_well, readiness.values())) else 1)


def _well(readiness: str) -> bool:
    return readiness in ("ready", "up")


def _told(state: "StackState", readiness: dict[str, str]) -> dict[str, Any]:
    processes = {
        name: {"pid": process.pid, "restarts": process.restarts, "state": readiness[name]}
        for name, process in state.processes.items()
    }
    return {"phase": state.phase, "processes": processes, "endpoints": state.endpoints.model_dump()}


def _show(state: "StackState", readiness: dict[str, str]) -> None:
    table = Table(title=f"stack: {state.phase}")
    for column in ("process", "pid", "restarts", "state"):
        table.add_column(column)
    for name, process in state.processes.items():
        table.add_row(name, str(process.pid), str(process.restarts), escape(readiness[name]))
    output.print(table)
    for name, address in state.endpoints.model_dump().items():
        output.print(f"{name:10} {address}", highlight=False)


def logs(
    service: Annotated[
        str | None, typer.Argument(help="One process, for example gateway; all when left out.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="How many lines of each to begin with.")
    ] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print what the services logged: one JSON object a line."""
    with _plain_errors():
        from leyden_local.state import StackFolder

        folder = StackFolder(directory)
        files = sorted(folder.logs.glob("*.log")) if service is None else [folder.log(service)]
        if not files or not all(file.exists() for file in files):
            known = ", ".join(sorted(file.stem for file in folder.logs.glob("*.log"))) or "none"
            raise Failed(f"no log of {service or 'any service'} in {folder.logs}; there are: {known}")
        _print_logs(files, lines, follow)


def _print_logs(files: list[Path], lines: int, follow: bool) -> None:
    ends = {}
    for file in files:
        text = file.read_text(errors="replace")
        ends[file] = len(text.encode())
        for line in text.splitlines()[-lines:] if lines else []:
            output.print(f"{file.stem}: {line}", markup=False, highlight=False, soft_wrap=True)
    while follow:
        for file, end in ends.items():
            with file.open("rb") as handle:
                handle.seek(end)
                fresh = handle.read()
            ends[file] = end + len(fresh)
            for line in fresh.decode(errors="replace").splitlines():
                output.print(f"{file.stem}: {line}", markup=False, highlight=False, soft_wrap=True)
        time.sleep(0.3)


def down(
    directory: Directory = DEFAULT_DIRECTORY,
    remove: Annotated[
        bool, typer.Option("--remove", help="Also delete its database, logs and checkpoints.")
    ] = False,
) -> None:
    """Stop the stack, services first, and wait until every process is gone. Safe to repeat."""
    with _plain_errors():
        from leyden_local import stack

        if stack.running(directory):
            with output.status("stopping"):
                stack.stop(directory)
            output.print("Stopped.")
        else:
            output.print(f"No stack runs in {directory}.")
        if remove:
            stack.remove(directory)
            output.print(f"Removed {directory}.")


class DemoModel(StrEnum):
    """What the demo can train."""

    SEED = "seed"
    SMOLLM2 = "smollm2"


def demo(
    model: Annotated[
        DemoModel,
        typer.Option(
            help="seed: the calculator's small model, some minutes. smollm2: SmolLM2-135M-Instruct on sums "
            "of reasoning-gym, ten minutes on two cores with bf16, and 8 GB of memory."
        ),
    ] = DemoModel.SEED,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Learner steps. Default: 26, with smollm2 24.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the tasks and of the learner.")] = 0,
    heldout: Annotated[int, typer.Option(min=1, help="Held-out tasks of each evaluation.")] = 200,
    reports: Annotated[Path, typer.Option(help="Where the report's folder is made.")] = Path("reports"),
    examples: Annotated[Path | None, typer.Option(help="The repository's examples folder.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the stack's logs, checkpoints and database.")
    ] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="LEYDEN_…=VALUE for every service. Repeatable.")
    ] = None,
) -> None:
    """Watch an agent get better: start everything, evaluate, train, evaluate again, write a report, stop.

    Takes some minutes on two cores with the seed. Ctrl-C stops everything and keeps the logs. Exit status 1
    when the agent did not improve on the held-out tasks.
    """
    with _plain_errors():
        from leyden_local.demo import report
        from leyden_local.demo.run import run_demo
        from leyden_local.demo.scenarios import SCENARIOS

        _tell_ignored()
        scenario = SCENARIOS[model]
        options = scenario.choose(
            examples=examples or _repository() / "examples",
            reports=reports,
            seed=seed,
            heldout=heldout,
            steps=steps,
            keep=keep,
            settings=_pairs(setting or [], "--set LEYDEN_NAME=VALUE"),
        )
        summary, folder = run_demo(scenario, options, output)
    output.print(report.table(summary), report.timings(summary))
    output.print(f"Report: {folder / 'report.html'}", highlight=False)
    if not summary.improved:
        raise Failed("the agent did not improve on the held-out tasks beyond what chance explains")
