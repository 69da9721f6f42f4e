"""What a learner's service and the processes that train for it tell each other."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden_learner.settings import LearnerSettings

BEAT = struct.Struct("d")
"""A sign of life: the machine's clock when it was given."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What a rank is told first: which of how many it is, and where they meet."""

    rank: int
    size: int
    folder: Path
    settings: LearnerSettings

    @property
    def beat(self) -> Path:
        """The file with its signs of life."""
        return self.folder / f"beat-{self.rank}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rank's work came to."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trainer that a rank has loaded."""

    step: int
    vocabulary: int
    max_positions: int
