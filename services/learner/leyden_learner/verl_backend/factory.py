"""Makes trainers on verl. Free of torch and verl: that the package is missing is told at start."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from leyden_learner.settings import LearnerSettings

if TYPE_CHECKING:
    from leyden_learner.verl_backend.trainer import VerlTrainer

_NEEDS = ("verl", "tensordict", "peft")


class VerlMissing(RuntimeError):
    """The backend is chosen and its package is not there."""


@dataclass(frozen=True, slots=True)
class VerlTrainers:
    """Trainers on verl, which is imported in the thread that will use it, not with this module."""

    settings: LearnerSettings

    def __post_init__(self) -> None:
        """Raises ``VerlMissing``."""
        if missing := [name for name in _NEEDS if not _installed(name)]:
            raise VerlMissing(
                f"LEYDEN_LEARNER_BACKEND=verl needs {', '.join(missing)}: install leyden[verl] "
                "with the versions of constraints-verl.txt, in an environment of its own, or choose torch"
            )

    def begin(self, weights: Path, reference: Path) -> "VerlTrainer":
        """A fresh optimizer over these weights."""
        from leyden_learner.verl_backend.trainer import VerlTrainer

        return VerlTrainer.begin(self.settings, weights, reference)

    def resume(self, checkpoint: Path, reference: Path) -> "VerlTrainer":
        """The trainer that saved this checkpoint, whichever backend it was of."""
        from leyden_learner.verl_backend.trainer import VerlTrainer

        return VerlTrainer.resume(self.settings, checkpoint, reference)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
