"""What commands share: where they write, the one error they end with, and the local stack if there is one."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from leyden_local.state import StackState

output = Console()
errors = Console(stderr=True)


class Failed(Exception):
    """A command could not do what it was asked; the text says why and what to do."""


def local_stack(directory: Path) -> "StackState | None":
    """The stack that runs in ``directory``; None when there is none, or no local stack installed."""
    try:
        from leyden_local.stack import running
    except ImportError:
        return None
    return running(directory)
