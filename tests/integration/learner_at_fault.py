"""Learners that kill themselves (SIGKILL) at a chosen moment; forked from one warm process, to start at once.

Reads a line of JSON for each learner: its ``environment``, and the ``moment`` that ends it, if any, when it
comes for the ``count``-th time. Answers with a line for its process id and, when it has ended, one for its
status.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers.modeling_utils

from leyden_learner import lora_files, repository, trainer_state
from leyden_learner.app import build
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.policy import Policy
from leyden_learner.registry import RegistryClient
from leyden_learner.retention import Retention
from leyden_learner.settings import LearnerSettings
from leyden_learner.trainer import Trainer
from leyden_platform.service import main


def die() -> NoReturn:
    """As ``kill -9`` does it."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class Countdown:
    """Dies when the moment has come for the last time."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self) -> None:
        """The moment is here."""
        self._left -= 1
        if not self._left:
            die()


Trap = Callable[[Countdown], None]


def before(owner: Any, name: str) -> Trap:
    """Just before a call."""

    def set_up(moment: Countdown) -> None:
        whole = getattr(owner, name)

        def instead(*args: Any, **kwargs: Any) -> Any:
            moment()
            return whole(*args, **kwargs)

        setattr(owner, name, instead)

    return set_up


def after(owner: Any, name: str) -> Trap:
    """Just after a call."""

    def set_up(moment: Countdown) -> None:
        whole = getattr(owner, name)

        def instead(*args: Any, **kwargs: Any) -> Any:
            result = whole(*args, **kwargs)
            moment()
            return result

        setattr(owner, name, instead)

    return set_up


def after_awaiting(owner: Any, name: str) -> Trap:
    """Just after a coroutine has come to its end."""

    def set_up(moment: Countdown) -> None:
        whole = getattr(owner, name)

        async def instead(*args: Any, **kwargs: Any) -> Any:
            result = await whole(*args, **kwargs)
            moment()
            return result

        setattr(owner, name, instead)

    return set_up


def halfway_through(owner: Any, name: str) -> Trap:
    """With half of a file on disk that a call writes."""

    def set_up(moment: Countdown) -> None:
        whole = getattr(owner, name)

        def instead(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            whole(tensors, path, *args, **kwargs)
            content = Path(path).read_bytes()
            Path(path).write_bytes(content[: len(content) // 2])
            moment()
            Path(path).write_bytes(content)

        setattr(owner, name, instead)

    return set_up


def before_the_commit(moment: Countdown) -> None:
    """With all of a transaction sent to the database, but not its end."""
    module: Any = repository
    whole = module.transaction

    @asynccontextmanager
    async def instead(engine: Any) -> AsyncIterator[Any]:
        async with whole(engine) as connection:
            yield connection
            moment()

    module.transaction = instead


MOMENTS: dict[str, Trap] = {
    "before the step": before(Trainer, "advance"),
    "between two passes": before(Policy, "score"),
    "weights changed": after(torch.optim.AdamW, "step"),
    "trained": after(Trainer, "advance"),
    "folder made": before(Policy, "save"),
    "half of the weights": halfway_through(transformers.modeling_utils, "safe_save_file"),
    "half of the adapter": halfway_through(lora_files, "save_file"),
    "weights written": after(Policy, "save"),
    "half of the state": halfway_through(trainer_state, "save_file"),
    "tokenizer copied": after(shutil, "copyfile"),
    "flushed": after(os, "fsync"),
    "before the rename": before(Path, "rename"),
    "renamed": after(Path, "rename"),
    "written": after(CheckpointStore, "write"),
    "before the transaction": before(repository.CheckpointRepository, "commit"),
    "in a transaction": before_the_commit,
    "committed": after_awaiting(repository.CheckpointRepository, "commit"),
    "before registering": before(RegistryClient, "register"),
    "registered": after_awaiting(RegistryClient, "register"),
    "noted": after_awaiting(repository.CheckpointRepository, "set_version"),
    "before pruning": before(Retention, "__call__"),
    "a file pruned": after(os, "unlink"),
    "pruned": after_awaiting(Retention, "__call__"),
    "resumed": after(Trainer, "resume"),
    "cleaned": after_awaiting(Retention, "clean"),
}


def learn(environment: dict[str, str], moment: str | None, count: int) -> NoReturn:
    """Be a learner, the real one, with a trap in its way."""
    os.environ |= environment
    if moment:
        MOMENTS[moment](Countdown(count))
    try:
        main("learner", LearnerSettings, build)
    except SystemExit as failed:
        os._exit(int(failed.code or 0))
    os._exit(0)


def serve() -> None:
    """One learner after the other, until there are no more lines."""
    for line in sys.stdin:
        wanted = json.loads(line)
        if not (pid := os.fork()):
            learn(wanted["environment"], wanted["moment"], wanted["count"])
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    import_module("transformers.models.qwen3.modeling_qwen3")  # once for all
    serve()
