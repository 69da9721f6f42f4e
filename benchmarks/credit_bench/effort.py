"""How much a run samples, and what it came to: plain values, free of torch."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Effort:
    """A run's waves, the tasks of a wave, the rollouts of a task, and held-out tasks before and after.

    ``epochs`` are the learner's passes over what a wave yields, an optimizer step each.
    """

    waves: int = 40
    groups: int = 8
    samples: int = 8
    heldout: int = 128
    epochs: int = 1

    @classmethod
    def quick(cls) -> "Effort":
        """Enough to see that everything works."""
        return cls(waves=2, groups=4, samples=4, heldout=8)

    def of(self, waves: int) -> "Effort":
        """The same with so many waves, or as it is for 0."""
        return replace(self, waves=waves) if waves else self

    @property
    def wave(self) -> int:
        """Rollouts of a wave."""
        return self.groups * self.samples

    @property
    def rollouts(self) -> int:
        """Rollouts of training."""
        return self.waves * self.wave


@dataclass
class Result:
    """What one run came to. ``success`` and ``calls`` are means over each wave's rollouts."""

    success: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    steps: int = 0
    trained: int = 0
    groups_dropped: int = 0
    steps_skipped: int = 0
    heldout_before: float = 0.0
    heldout: float = 0.0
    seconds: float = 0.0


EFFORTS = {"calculator": Effort(waves=16), "dispatch": Effort(waves=24, epochs=4)}
"""By environment."""
