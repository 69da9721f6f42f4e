"""``leyden replay``: score and credit the log again, without inference, into a stream of its own."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from leyden.cli.console import (
    DEFAULT_DIRECTORY,
    Directory,
    Failed,
    broker,
    errors,
    kafka_settings,
    local_stack,
    needs,
    no_stack,
    output,
)

if TYPE_CHECKING:
    from leyden_platform.settings import KafkaSettings
    from leyden_replay.replay import Request
    from leyden_replay.summary import Summary

INTERRUPTED = 130
_ASIDE = "What to go over"
_WITH = "Definitions (default: the services' settings)"
_WHERE = "Results"
_TEXTS = {"", "rollout", "task", "answer", "reason", "for example", "pairs of rollouts of one task"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(
    since: Annotated[
        str,
        typer.Option(
            "--from",
            help="A time with its zone (2026-11-23T08:00:00Z), how long ago (-7d, -12h, -30m), offsets by "
            "partition (0:1200,1:980), or beginning.",
            rich_help_panel=_ASIDE,
        ),
    ] = "beginning",
    until: Annotated[
        str,
        typer.Option(
            "--to", help="The same, or end: where the log ends as the replay begins.", rich_help_panel=_ASIDE
        ),
    ] = "end",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.", rich_help_panel=_ASIDE)] = None,
    run: Annotated[str | None, typer.Option(help="Only this run.", rich_help_panel=_ASIDE)] = None,
    policy: Annotated[
        str | None, typer.Option(help="Only rollouts of this policy.", rich_help_panel=_ASIDE)
    ] = None,
    lead_in: Annotated[
        str,
        typer.Option(
            help="How long before --from reading begins, for rollouts and groups that began earlier.",
            rich_help_panel=_ASIDE,
        ),
    ] = "20m",
    into: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the stream: run NAME, on leyden.samples.v1.NAME and leyden.trajectories.v1.NAME.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing, only report.", rich_help_panel=_WHERE)
    ] = False,
    compare: Annotated[
        bool, typer.Option(help="Read the live rewards and samples and compare.", rich_help_panel=_WHERE)
    ] = True,
    reports: Annotated[
        Path, typer.Option(help="Where the report's folder, replay-NAME, is made.", rich_help_panel=_WHERE)
    ] = Path("reports"),
    reward: Annotated[
        str | None,
        typer.Option(help="Instead of the tasks' own: a name, or module:function.", rich_help_panel=_WITH),
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="JSON", help="Parameters of --reward.", rich_help_panel=_WITH)
    ] = None,
    path: Annotated[
        list[Path] | None, typer.Option(help="Folder with your modules. Repeatable.", rich_help_panel=_WITH)
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            help='A name, or JSON with parameters: {"name": "gigpo", "w": 0.5}. For all policies.',
            rich_help_panel=_WITH,
        ),
    ] = None,
    air_cap: Annotated[
        float | None,
        typer.Option(help="Largest sum of a trajectory's intermediate rewards.", rich_help_panel=_WITH),
    ] = None,
    air_weights: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Weight by rule; 0 turns one off.", rich_help_panel=_WITH),
    ] = None,
    air_weight: Annotated[
        float | None,
        typer.Option(help="How much intermediate rewards count for credit.", rich_help_panel=_WITH),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="LEYDEN_…=VALUE, any other setting. Repeatable.", rich_help_panel=_WITH),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(envvar="LEYDEN_KAFKA_BOOTSTRAP", help="host:port. Default: the stack in --dir."),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log every rollout, as the services do.")
    ] = False,
) -> None:
    """Score and credit what the log holds again, with other rewards or estimators, and compare.

    No agent and no model runs. Results go into a stream of their own that no live service reads; train on it
    with LEYDEN_LEARNER_REPLAY=NAME. The same definitions give the live samples again, bit for bit.

    Exit status 0 when done, 1 when it could not be done, 2 for a bad option, 130 after Ctrl-C: what was
    written until then stays, and the same command again adds what is missing.
    """
    if into is None and not dry_run:
        raise typer.BadParameter("name the stream to write, or give --dry-run", param_hint="--into")
    name = into or "dry-run"
    with needs("replay"), _environment(setting or [], None if kafka else directory), _plain_errors():
        from leyden_replay import report
        from leyden_replay.tables import headline

        connection = broker(kafka, directory)
        request = _request(
            {
                "name": name,
                "since": since,
                "until": until,
                "lead_in": lead_in,
                "selection": {"tenant": tenant, "run": run, "policy": policy},
                "dry_run": dry_run,
                "compared": compare,
            },
            {
                "reward": reward,
                "params": _json(params, "--params"),
                "path": path or [],
                "air_cap": air_cap,
                "air_weights": _json(air_weights, "--air-weights"),
                "estimator": _json(estimator, "--estimator")
                if (estimator or "").startswith("{")
                else estimator,
                "air_weight": air_weight,
            },
            connection or kafka_settings(None),
        )
        if connection is None:
            raise no_stack(directory, "--kafka host:port")
        folder = reports / f"replay-{name}"
        report.prepare(folder)
        try:
            summary = _run(request, verbose=verbose)
            _show(summary)
            files = report.write(summary, folder)
        finally:
            report.discard(folder)
    output.print(f"{headline(summary)}.", highlight=False, soft_wrap=True)
    output.print(f"Report: {files[-1]}", highlight=False, soft_wrap=True)


def _request(asked: dict[str, Any], changes: dict[str, Any], kafka: "KafkaSettings") -> "Request":
    from leyden_replay.definitions import Changes, definitions
    from leyden_replay.edges import LogEdge, duration_s, parse_edge
    from leyden_replay.replay import Request, check
    from leyden_replay.roster import Selection

    now = datetime.now(UTC)
    since, until = asked.pop("since"), asked.pop("until")
    lead_in = timedelta(seconds=duration_s(asked.pop("lead_in")))
    request = Request(
        **asked | {"selection": Selection(**asked["selection"])},
        kafka=kafka,
        since=parse_edge(since, now=now, word=LogEdge.BEGINNING),
        until=parse_edge(until, now=now, word=LogEdge.END),
        as_asked=(since, until),
        definitions=definitions(Changes(**changes), kafka=kafka),
        now=now,
        lead_in=lead_in,
    )
    check(request)
    return request


def _run(request: "Request", *, verbose: bool) -> "Summary":
    """Run under a progress bar. Ctrl-C ends it in order."""
    from leyden_platform.settings import LogSettings
    from leyden_platform.telemetry import configure_logging
    from leyden_replay.replay import replay as go_over

    configure_logging("replay", LogSettings(level="INFO" if verbose else "CRITICAL"))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        shown = bar.add_task("starting", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(shown, description=stage, completed=done, total=total or None)

        return asyncio.run(go_over(request, progress))


def _show(summary: "Summary") -> None:
    from leyden_replay.tables import tables

    for table in tables(summary):
        shown = Table(title=table.title, title_justify="left")
        for column in table.columns:
            shown.add_column(column, justify="left" if column in _TEXTS else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        output.print(shown)


def _json(text: str | None, option: str) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=option) from None
    if not isinstance(value, dict):
        raise typer.BadParameter("write a JSON object", param_hint=option)
    return value


@contextmanager
def _environment(pairs: list[str], directory: Path | None) -> Iterator[None]:
    """The settings of a local stack's services, then those of ``--set``, while the replay's are read."""
    changed = _of_stack(directory) if directory else {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.startswith("LEYDEN_")):
            raise typer.BadParameter(f"{pair!r}: write LEYDEN_NAME=VALUE", param_hint="--set")
        changed[name] = value
    kept = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _of_stack(directory: Path) -> dict[str, str]:
    """What the stack in ``directory`` tells its reward and credit services; the shell's own settings go
    before.
    """
    if local_stack(directory) is None:
        return {}
    from leyden_local.config import StackConfig
    from leyden_local.state import StackFolder

    config = StackConfig.model_validate_json(StackFolder(directory).config.read_bytes())
    told = {
        "LEYDEN_CATALOGUE_PATH": json.dumps([str(folder.resolve()) for folder in config.path]),
        "LEYDEN_CATALOGUE_REWARDS": json.dumps(config.rewards),
        **config.settings,
    }
    return {name: value for name, value in told.items() if name not in os.environ}


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a replay raises into sentences and exit statuses."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from leyden_credit.settings import CreditSettings
    from leyden_platform.environment import problems
    from leyden_platform.messaging import MessagingError
    from leyden_replay.definitions import UnknownReward
    from leyden_replay.edges import BadEdge
    from leyden_replay.report import ReportFailed
    from leyden_replay.roster import NameTaken
    from leyden_replay.stream import BadName, OtherDefinitions
    from leyden_replay.stretch import NothingThere, RangeGone
    from leyden_reward.rewards.workers import CatalogueError
    from leyden_reward.settings import RewardSettings

    try:
        yield
    except (BadEdge, BadName, UnknownReward) as error:
        raise typer.BadParameter(str(error)) from None
    except (ValidationError, SettingsError) as error:
        raise typer.BadParameter("; ".join(problems(error, RewardSettings, CreditSettings))) from None
    except (
        CatalogueError,
        MessagingError,
        NameTaken,
        NothingThere,
        OtherDefinitions,
        RangeGone,
        ReportFailed,
    ) as error:
        raise Failed(escape(str(error))) from None
    except KeyboardInterrupt:
        errors.print(
            "leyden: interrupted; what was written stays, and the same command again adds what is missing"
        )
        raise typer.Exit(INTERRUPTED) from None
