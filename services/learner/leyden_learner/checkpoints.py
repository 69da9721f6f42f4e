"""Checkpoint folders: written beside their place, complete on disk before they appear under their name.

Free of torch: what goes into a folder is written by a callback.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO
from uuid import uuid4

from leyden_platform.artifacts import TRAINER_STATE
from leyden_platform.probe import PROBE_FILE

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_STEP = "step-"
_NAME = re.compile(r"step-\d{6,}-[0-9a-f]{8}")
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

    def write(self, step: int, base: Path | None, save: Callable[[Path], None]) -> Path:
        """A new folder with what ``save`` writes, and tokenizer, chat template and configuration of ``base``.

        An adapter is written without: it has those of what it lies over. The folder has a name never used
        before and is durable when this returns. Raises ``CheckpointNotWritten``.
        """
        name = f"{_STEP}{step:06d}-{uuid4().hex[:8]}"
        unfinished = self._folder / (_UNFINISHED + name)
        try:
            unfinished.mkdir(parents=True)
            save(unfinished)
            for file in described_by(base) if base else ():
                shutil.copyfile(file, unfinished / file.name)
            _make_durable(unfinished)
            final = unfinished.rename(self._folder / name)
            _sync(self._folder)
        except Exception as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, OSError):
                raise CheckpointNotWritten(f"cannot write a checkpoint to {self._folder}: {error}") from error
            raise
        return final

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder

    def names(self) -> list[str]:
        """Finished checkpoints."""
        if not self._folder.is_dir():
            return []
        return sorted(entry.name for entry in self._folder.iterdir() if is_ours(entry.name))

    def remove_unfinished(self) -> list[str]:
        """Delete what a crash left half-written or half-deleted. Acquire first."""
        left = [entry for entry in self._folder.glob(f"{_UNFINISHED}*") if entry.is_dir()]
        for entry in left:
            shutil.rmtree(entry, ignore_errors=True)
        return [entry.name for entry in left]

    def delete(self, name: str) -> None:
        """A checkpoint: gone from its name at once, then from the disk. Raises ``OSError``."""
        folder = self._folder / name
        if folder.is_dir():
            shutil.rmtree(folder.rename(self._folder / (_UNFINISHED + name)), ignore_errors=True)

    def delete_trainer_state(self, name: str) -> None:
        """What a trainer would go on from; the weights stay."""
        shutil.rmtree(self._folder / name / TRAINER_STATE, ignore_errors=True)


def is_ours(name: str) -> bool:
    """Whether ``write`` gives such names; whatever else lies beside its folders is not to be touched."""
    return _NAME.fullmatch(name) is not None


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
