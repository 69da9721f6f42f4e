"""What the learner needs from elsewhere: a log to read, and trainers, which import torch when made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from leyden_learner.outcome import Outcome
from leyden_platform.messaging import Record
from leyden_schemas import TrainingSample


class Reader(Protocol):
    """Where samples come from."""

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Record]:
        """What arrived within ``timeout_s``."""
        ...


class TrainingPolicy(Protocol):
    """The policy in training; ``leyden_learner.trainer.Trainer``."""

    step: int

    @property
    def vocabulary(self) -> int:
        """Token ids lie below this."""
        ...

    @property
    def max_positions(self) -> int:
        """Tokens of the longest row."""
        ...

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Outcome:
        """Train one step."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint's files."""
        ...


class TrainerFactory(Protocol):
    """Makes trainers; the implementation imports torch when called."""

    def begin(self, weights: Path, reference: Path) -> TrainingPolicy:
        """A fresh one over these weights."""
        ...

    def resume(self, checkpoint: Path, reference: Path) -> TrainingPolicy:
        """The one that saved this checkpoint."""
        ...
