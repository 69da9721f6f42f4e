"""What commands share: where they write, the one error they end with, and the local stack if there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from leyden_local.state import StackState

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
