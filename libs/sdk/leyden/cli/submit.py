"""``leyden submit``: publish tasks from a file."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import track

from leyden.cli.console import (
    DEFAULT_DIRECTORY,
    Directory,
    Failed,
    broker,
    checked_queues,
    errors,
    needs,
    no_stack,
    output,
)
from leyden_schemas import Task, Topics, new_id

if TYPE_CHECKING:
    from leyden_platform.settings import KafkaSettings

CHUNK = 500


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    file: Annotated[
        typer.FileText,
        typer.Argument(encoding="utf-8", help="One task a line, as JSON; - reads standard input."),
    ],
    kafka: Annotated[
        str | None,
        typer.Option(envvar="LEYDEN_KAFKA_BOOTSTRAP", help="host:port. Default: the stack in --dir."),
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    queue: Annotated[str | None, typer.Option(help="Publish to leyden.tasks.v1.QUEUE.")] = None,
    run: Annotated[str | None, typer.Option(help="Set the run of tasks that name none.")] = None,
) -> None:
    """Check every line of a task file, then publish all of it; with one bad line nothing is published.

    A line is what any Kafka client may send to leyden.tasks.v1, for example
    {"input": {"question": "3 + 4 * 5"}, "reference": "23", "policy": "calculator", "samples": 8}
    """
    checked_queues([queue] if queue else [])
    try:
        tasks = _read(file, run)
    except UnicodeDecodeError as error:
        raise Failed(f"{escape(file.name)} is not UTF-8 ({error.reason}); nothing was published") from None
    asyncio.run(_publish(tasks, _connection(kafka, directory), queue))
    output.print(f"Published {len(tasks)} tasks, {sum(task.samples for task in tasks)} rollouts.")


def _read(file: typer.FileText, run: str | None) -> list[Task]:
    tasks, problems = [], []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            task = Task.model_validate_json(line)
            renamed = run is not None and "run" not in task.model_fields_set
            tasks.append(task.model_copy(update={"run": run}) if renamed else task)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                where = ".".join(map(str, item["loc"])) or "message"
                problems.append(f"line {number}: {where}: {item['msg']}")
    for problem in problems[:20]:
        errors.print(escape(problem), highlight=False, soft_wrap=True)
    if problems:
        raise Failed(f"{len(problems)} problems in {file.name}; nothing was published")
    if not tasks:
        raise Failed(f"{file.name} holds no tasks")
    return tasks


def _connection(kafka: str | None, directory: Path) -> "KafkaSettings":
    if (connection := broker(kafka, directory)) is None:
        raise no_stack(directory, "--kafka host:port")
    return connection


async def _publish(tasks: list[Task], settings: "KafkaSettings", queue: str | None) -> None:
    with needs("messaging"):
        from leyden_platform.messaging import KafkaPublisher, MessagingError

    publisher = KafkaPublisher(settings, "cli")
    named = [task if task.task_id else task.model_copy(update={"task_id": str(new_id())}) for task in tasks]
    topic = f"{Topics.TASKS.name}.{queue}" if queue else None
    try:
        await publisher.start()
        chunks = [named[i : i + CHUNK] for i in range(0, len(named), CHUNK)]
        for chunk in track(
            chunks, "publishing", console=errors, transient=True, disable=not errors.is_terminal
        ):
            await publisher.publish(*chunk, topic=topic)
    except MessagingError as error:
        raise Failed(escape(str(error))) from None
    finally:
        await publisher.stop()
