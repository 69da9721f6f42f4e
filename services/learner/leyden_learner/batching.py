"""Samples that wait to be trained on, when they make a step, and from where the log is needed again.

Pure: positions, times and versions come in as values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from leyden_schemas import TrainingSample


@dataclass(frozen=True, slots=True)
class Waiting:
    """A usable sample and where it lies in the samples topic."""

    sample: TrainingSample
    partition: int
    offset: int
    arrived_s: float

    @property
    def where(self) -> str:
        """Its place in the topic."""
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class BatchRule:
    """When waiting samples make a step."""

    batch_rollouts: int
    min_rollouts: int
    timeout_s: float


class SampleBuffer:
    """Waiting samples in order of arrival, at most one of each rollout."""

    def __init__(self, rule: BatchRule) -> None:
        self._rule = rule
        self._waiting: dict[UUID, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, rollout_id: UUID) -> bool:
        return rollout_id in self._waiting

    def add(self, waiting: Waiting) -> bool:
        """Keep a sample; False when its rollout already waits, in which case the first one stays."""
        return self._waiting.setdefault(waiting.sample.rollout_id, waiting) is waiting

    def ready(self, now_s: float) -> int:
        """Rollouts that a step may take now: a full batch, what is there once the time is up, or 0."""
        count = len(self._waiting)
        if count >= self._rule.batch_rollouts:
            return self._rule.batch_rollouts
        if count < self._rule.min_rollouts:
            return 0
        oldest_s = min(waiting.arrived_s for waiting in self._waiting.values())
        return count if now_s - oldest_s >= self._rule.timeout_s else 0

    def take(self, count: int) -> list[Waiting]:
        """Remove and return the ``count`` that arrived first."""
        taken = list(self._waiting.values())[:count]
        for waiting in taken:
            del self._waiting[waiting.sample.rollout_id]
        return taken

    def evict(self, refused: Callable[[TrainingSample], bool]) -> list[Waiting]:
        """Remove and return the samples that ``refused`` holds for."""
        gone = [waiting for waiting in self._waiting.values() if refused(waiting.sample)]
        for waiting in gone:
            del self._waiting[waiting.sample.rollout_id]
        return gone

    def low_watermark(self, next_offsets: Mapping[int, int]) -> dict[int, int]:
        """Where each partition must be read from again: its first waiting sample, else its next offset."""
        low = dict(next_offsets)
        for waiting in self._waiting.values():
            low[waiting.partition] = min(low[waiting.partition], waiting.offset)
        return low
