"""``leyden submit``: publish tasks from a file."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape
from rich.progress import track

from leyden.cli.console import Failed, errors, local_stack, needs, output
from leyden_schemas import Task, Topics, new_id

if TYPE_CHECKING:
    from leyden_platform.settings import KafkaSettings

CHUNK = 500


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(submit)


def submit(
    file: Annotated[typer.FileText, typer.Argument(help="One task a line, as JSON; - reads standard input.")],
    kafka: Annotated[
        str | None,
        typer.Option(envvar="LEYDEN_KAFKA_BOOTSTRAP", help="host:port. Default: the stack in --dir."),
    ] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Folder of a local stack.")] = Path(".leyden"),
    queue: Annotated[str | None, typer.Option(help="Publish to leyden.tasks.v1.QUEUE.")] = None,
    run: Annotated[str | None, typer.Option(help="Set the run of tasks that name none.")] = None,
) -> None:
    """Check every line of a task file, then publish all of it; with one bad line nothing is published.

    A line is what any Kafka client may send to leyden.tasks.v1, for example
    {"input": {"question": "3 + 4 * 5"}, "reference": "23", "policy": "calculator", "samples": 8}
    """
    tasks = _read(file, run)
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
    """The broker named, or the embedded one of a local stack, which has no idempotent producer."""
    from leyden_platform.settings import KafkaSettings

    settings = KafkaSettings()
    if kafka:
        return settings.model_copy(update={"bootstrap": kafka})
    if state := local_stack(directory):
        return settings.model_copy(update={"bootstrap": state.endpoints.kafka, "idempotent": False})
    raise Failed(f"no stack runs in {directory}; start one with leyden up, or give --kafka host:port")


async def _publish(tasks: list[Task], settings: "KafkaSettings", queue: str | None) -> None:
    with needs("messaging"):
        from leyden_platform.messaging import KafkaPublisher, MessagingError

    publisher = KafkaPublisher(settings, "cli")
    named = [task if task.task_id else task.model_copy(update={"task_id": str(new_id())}) for task in tasks]
    topic = f"{Topics.TASKS.name}.{queue}" if queue else None
    try:
        await publisher.start()
        chunks = [named[i : i + CHUNK] for i in range(0, len(named), CHUNK)]
        for chunk in track(chunks, "publishing", console=errors, transient=True):
            await publisher.publish(*chunk, topic=topic)
    except MessagingError as error:
        raise Failed(escape(str(error))) from None
    finally:
        await publisher.stop()
