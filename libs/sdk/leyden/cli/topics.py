"""``leyden topics``: the product's Kafka topics."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from leyden.cli.console import Failed, checked_queues, kafka_settings, needs, output
from leyden_schemas import Topic, Topics

app = typer.Typer(help="The Kafka topics of the product.", no_args_is_help=True)


@app.command("list")
def show() -> None:
    """Show every topic with its partitions and what keeps it."""
    table = Table()
    for column in ("topic", "partitions", "kept"):
        table.add_column(column)
    for topic in Topics.ALL:
        kept = "compacted" if topic.compacted else f"{topic.retention_hours} hours"
        table.add_row(topic.name, str(topic.partitions), kept)
    output.print(table)


@app.command()
def create(
    kafka: Annotated[str | None, typer.Option(help="host:port; default LEYDEN_KAFKA_BOOTSTRAP.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Also the topics of a queue. Repeatable.")] = None,
) -> None:
    """Create the topics that do not exist yet. Safe to repeat; what exists is left as it is.

    Reads the connection from LEYDEN_KAFKA_… (bootstrap, security, replication factor).
    """
    with needs("messaging"):
        from leyden_platform.messaging import MessagingError, ensure_topics

    settings = kafka_settings(kafka)
    queues = [
        Topic(f"{base.name}.{name}", base.partitions)
        for name in checked_queues(queue or [])
        for base in (Topics.TASKS, Topics.ROLLOUTS)
    ]
    try:
        created = asyncio.run(ensure_topics(settings, [*Topics.ALL, *queues]))
    except MessagingError as error:
        raise Failed(escape(str(error))) from None
    output.print(f"Created {', '.join(created)}." if created else "Every topic exists.", highlight=False)
