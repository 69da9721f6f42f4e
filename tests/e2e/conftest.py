"""A whole stack as processes, shared by the end-to-end tests."""

from collections.abc import Iterator

import pytest
from stack_harness import config

from leyden_local import stack
from leyden_local.state import StackState


@pytest.fixture(scope="session")
def running_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackState]:
    """A stack that lives as long as the session; ``state`` says where it is."""
    directory = tmp_path_factory.mktemp("stack")
    with stack.foreground(config(directory)) as state:
        yield state
    stack.remove(directory)
