"""Checkpoint folders: written beside their place, complete on disk before they appear under their name.

Free of torch: what goes into a folder is written by a callback.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO
from uuid import uuid4

from leyden_platform.artifacts import TRAINER_STATE
from leyden_platform.probe import PROBE_FILE

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_UNFINISHED = ".unfinished-"
_LOCK = ".lock"


class CheckpointNotWritten(OSError):
    """A checkpoint could not be written, for example because the disk is full; nothing of it remains."""


class FolderInUse(OSError):
    """Another learner of the same policy and run works in the folder."""


class CheckpointStore:
    """The checkpoints of one policy and run under ``<root>/<policy>/<run>/``."""

    def __init__(self, root: Path, policy: str, run: str) -> None:
        self._folder = root.absolute() / policy / run
        self._lock: IO[str] | None = None

    def acquire(self) -> None:
        """Make this process the only learner in the folder, until ``release`` or its death.

        Raises ``FolderInUse``, and ``OSError`` when the folder cannot be made.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise FolderInUse(f"another learner works in {self._folder}") from error
        self._lock = lock

    def release(self) -> None:
        """Let another learner have the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def write(self, step: int, base: Path, save: Callable[[Path], None]) -> Path:
        """A new folder with what ``save`` writes, and tokenizer, chat template and configuration of ``base``.

        It has a name never used before and is durable when this returns. Raises ``CheckpointNotWritten``.
        """
        name = f"step-{step:06d}-{uuid4().hex[:8]}"
        unfinished = self._folder / (_UNFINISHED + name)
        try:
            unfinished.mkdir(parents=True)
            save(unfinished)
            for file in described_by(base):
                shutil.copyfile(file, unfinished / file.name)
            _make_durable(unfinished)
            final = unfinished.rename(self._folder / name)
            _sync(self._folder)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointNotWritten(f"cannot write a checkpoint to {self._folder}: {error}") from error
        return final

    def remove_unknown(self, known: Collection[Path]) -> list[Path]:
        """Delete folders that no committed checkpoint names: what a crash left behind. Acquire first."""
        unknown = [folder for folder in self._folder.iterdir() if folder.is_dir() and folder not in known]
        for folder in unknown:
            shutil.rmtree(folder, ignore_errors=True)
        return unknown

    def prune(
        self, newest_first: list[Path], *, trainer_states: int, weights: int, keep: Collection[Path]
    ) -> None:
        """Delete optimizer state beyond the newest ``trainer_states``, and whole folders beyond ``weights``.

        ``weights`` 0 keeps all; the folders in ``keep`` keep their weights in any case.
        """
        for path in newest_first[trainer_states:]:
            shutil.rmtree(path / TRAINER_STATE, ignore_errors=True)
        for path in newest_first[max(weights, 1) :] if weights else []:
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)


def described_by(base: Path) -> list[Path]:
    """The files of a model folder that say nothing of its weights."""
    return [
        file
        for file in sorted(base.iterdir())
        if file.is_file()
        and not file.name.endswith(_WEIGHT_SUFFIXES)
        and not file.name.startswith(".")
        and file.name != PROBE_FILE
    ]


def _make_durable(folder: Path) -> None:
    """Readable by the services that serve it, and on disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    folder.chmod(0o755)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
