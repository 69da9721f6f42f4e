"""From the log into the buffer: which samples wait to be trained on, and where the log is needed again."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog

from leyden_learner import metrics
from leyden_learner.admission import Admission, Drop
from leyden_learner.batching import SampleBuffer, Waiting
from leyden_learner.patience import Patience
from leyden_learner.repository import CheckpointRepository
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.messaging import Record
from leyden_schemas import MalformedMessage, TrainingSample

log = structlog.get_logger(__name__)

_ELSEWHERE = {Drop.OTHER_POLICY, Drop.OTHER_TENANT, Drop.OTHER_RUN, Drop.ALREADY_TRAINED}


class Intake:
    """Takes records in, drops by reason what cannot be trained on, and knows where each partition goes on.

    ``newest`` tells the policy's newest version.
    """

    def __init__(
        self,
        buffer: SampleBuffer,
        admission: Admission,
        *,
        repository: CheckpointRepository,
        patience: Patience,
        newest: Callable[[], int],
        now_s: Callable[[], float],
        positions: Mapping[int, int],
    ) -> None:
        self._buffer, self._admission, self._repository = buffer, admission, repository
        self._patience, self._newest, self._now_s = patience, newest, now_s
        self.positions = dict(positions)

    @property
    def low_watermark(self) -> dict[int, int]:
        """From where the log is needed again after a crash."""
        return self._buffer.low_watermark(self.positions)

    async def take(self, records: Sequence[Record]) -> None:
        """Keep what may be trained on, and go on after these records."""
        candidates = [
            (record, sample) for record in records if (sample := self._admitted(record)) is not None
        ]
        trained = await self._trained([sample for _, sample in candidates])
        for record, sample in candidates:
            waiting = Waiting(sample, record.partition.number, record.offset, self._now_s())
            if sample.rollout_id in trained:
                self.drop(Drop.ALREADY_TRAINED, record.where)
            elif not self._buffer.add(waiting):
                self.drop(Drop.DUPLICATE, record.where)
        for record in records:
            self.positions[record.partition.number] = record.offset + 1
        metrics.READ.labels(self._admission.policy).inc(len(records))
        self._show()

    def evict_stale(self) -> None:
        """Drop what the newest version has made too old."""
        gone = self._buffer.evict(lambda sample: self._admission.too_old(sample, self._newest()) is not None)
        for waiting in gone:
            self.drop(Drop.TOO_STALE, waiting.where)
        self._show()

    def drop(self, reason: Drop, where: str, **details: str) -> None:
        """Count and log a sample that is not trained on."""
        metrics.DROPPED.labels(self._admission.policy, reason).inc()
        (log.debug if reason in _ELSEWHERE else log.warning)(
            "sample_dropped", reason=reason, where=where, **details
        )

    def _admitted(self, record: Record) -> TrainingSample | None:
        try:
            sample: TrainingSample = record.message()
        except MalformedMessage as error:
            self.drop(Drop.MALFORMED, record.where, error=str(error))
            return None
        if reason := self._admission.refuses(sample, self._newest()):
            self.drop(reason, record.where, rollout_id=str(sample.rollout_id))
            return None
        return sample

    async def _trained(self, samples: Sequence[TrainingSample]) -> set[UUID]:
        if not samples:
            return set()
        rollout_ids = {sample.rollout_id for sample in samples}
        return await self._patience(
            "database", lambda: self._repository.trained_among(rollout_ids), DatabaseUnreachable
        )

    def _show(self) -> None:
        metrics.BUFFERED.labels(self._admission.policy).set(len(self._buffer))
