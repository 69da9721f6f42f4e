"""What commands share: where they write, the one error they end with, and the local stack if there is one."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from leyden_local.state import StackState
    from leyden_platform.settings import KafkaSettings

Directory = Annotated[Path, typer.Option("--dir", file_okay=False, help="Folder of a local stack.")]
DEFAULT_DIRECTORY = Path(".leyden")

output = Console()
errors = Console(stderr=True)


class Failed(Exception):
    """A command could not do what it was asked; the text says why and what to do."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports of packages that ``extra`` installs; raises ``Failed`` naming it when one is missing."""
    try:
        yield
    except ImportError as error:
        raise Failed(
            escape(f"this command needs more packages ({error}); pip install 'leyden[{extra}]'")
        ) from error


def local_stack(directory: Path) -> "StackState | None":
    """The stack that runs in ``directory``; None when there is none, or no local stack installed."""
    try:
        from leyden_local.stack import running
    except ImportError:
        return None
    return running(directory)


def kafka_settings(kafka: str | None) -> "KafkaSettings":
    """``LEYDEN_KAFKA_…``, with the broker of ``--kafka`` if it names one."""
    from leyden_platform.environment import BadSettings, read_settings
    from leyden_platform.settings import KafkaSettings

    try:
        settings = read_settings(KafkaSettings)
    except BadSettings as error:
        raise Failed(escape(str(error))) from None
    return settings.model_copy(update={"bootstrap": kafka}) if kafka else settings


def broker(kafka: str | None, directory: Path) -> "KafkaSettings | None":
    """The broker named, or the embedded one of a local stack, which has no idempotent producer; else None."""
    settings = kafka_settings(kafka)
    if kafka:
        return settings
    if state := local_stack(directory):
        return settings.model_copy(update={"bootstrap": state.endpoints.kafka, "idempotent": False})
    return None


def no_stack(directory: Path, instead: str) -> Failed:
    """For commands that need one, unless an option says where else to look."""
    return Failed(
        f"no stack runs in {escape(str(directory))}; start one with leyden up, or give {escape(instead)}"
    )


def checked_queues(names: Sequence[str]) -> Sequence[str]:
    """Names that Kafka takes as the end of a topic's name."""
    from leyden_schemas import QUEUE_NAME

    for name in names:
        if not re.fullmatch(QUEUE_NAME, name):
            raise typer.BadParameter(
                f"{name!r}: a queue's name has letters, digits, '.', '_' and '-' only, 200 at most",
                param_hint="--queue",
            )
    return names
