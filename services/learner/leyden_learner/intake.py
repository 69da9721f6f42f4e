"""From the log into the buffer: which samples wait to be trained on, and where the log is needed again."""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import msgspec
import structlog

from leyden_learner import metrics
from leyden_learner.admission import Admission, Drop, why_malformed
from leyden_learner.batching import SampleBuffer, Waiting
from leyden_learner.patience import Patience
from leyden_learner.positions import Positions
from leyden_learner.repository import CheckpointRepository
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.messaging import Record
from leyden_schemas import BASE_QUEUE, MalformedMessage, TrainingSample

log = structlog.get_logger(__name__)

_ELSEWHERE = {Drop.OTHER_POLICY, Drop.OTHER_TENANT, Drop.OTHER_RUN, Drop.ALREADY_TRAINED}


class Label(msgspec.Struct):
    """What decides whether a sample is looked at now; read without building the rest of it."""

    policy: str
    tenant: str = "default"
    run: str = "default"
    queue: str = BASE_QUEUE


_LABELS = msgspec.json.Decoder(Label)


class Intake:
    """Takes records in, drops by reason what cannot be trained on, and knows where each partition goes on.

    At most ``share`` rollouts of a queue wait; ``newest`` tells the policy's newest version.
    """

    def __init__(
        self,
        buffer: SampleBuffer,
        admission: Admission,
        *,
        share: int,
        repository: CheckpointRepository,
        patience: Patience,
        newest: Callable[[], int],
        now_s: Callable[[], float],
        positions: Mapping[int, int],
    ) -> None:
        self._buffer, self._admission, self._repository = buffer, admission, repository
        self._patience, self._newest, self._now_s = patience, newest, now_s
        self._share = share
        self.positions = Positions(positions)

    @property
    def low_watermark(self) -> dict[int, int]:
        """From where the log is needed again after a crash."""
        return self._buffer.low_watermark(self.positions.low())

    @property
    def backlog(self) -> dict[str, int]:
        """Rollouts of each queue that wait, in the buffer or left on the log."""
        queues = {*self._buffer.queues, *self.positions.behind}
        return {queue: self._buffer.count(queue) + self.positions.left(queue) for queue in sorted(queues)}

    def room(self, queue: str) -> int:
        """Rollouts of a queue that may still wait."""
        return self._share - self._buffer.count(queue)

    async def scan(self, records: Sequence[Record]) -> None:
        """Go on after these records, keeping what may be trained on and has room."""
        taken: list[tuple[Record, str]] = []
        for record in records:
            number, offset = record.partition.number, record.offset
            if offset < self.positions.scan.get(number, 0):
                self.positions.begun_anew(number, offset)
            if (queue := self._queue_of(record)) is not None:
                room = self.room(queue) - sum(other == queue for _, other in taken)
                if self.positions.scanned(queue, number, offset, room=room > 0):
                    taken.append((record, queue))
            self.positions.passed(number, offset)
        await self._keep([record for record, _ in taken])
        metrics.READ.labels(self._admission.policy).inc(len(records))

    async def follow(self, queue: str, records: Sequence[Record]) -> None:
        """The same for the cursor of a queue that is behind; at most as many records as it has room for."""
        own: list[Record] = []
        for record in records:
            is_own = self._queue_of(record, counting=False) == queue
            own += [record] * is_own
            self.positions.followed(queue, record.partition.number, record.offset, own=is_own)
        await self._keep(own)

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

    def _queue_of(self, record: Record, *, counting: bool = True) -> str | None:
        """The queue of a sample of ours; None for anything else, which is counted."""
        try:
            label = _LABELS.decode(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if counting:
                self._refuse_bytes(record, error)
            return None
        if reason := self._admission.belongs_elsewhere(label):
            if counting:
                self.drop(reason, record.where)
            return None
        return label.queue

    def _refuse_bytes(self, record: Record, error: Exception) -> None:
        """Bytes without a label; with a NaN, which JSON has not, they may be a sample all the same."""
        try:
            reason = self._admission.refuses(record.message(), self._newest()) or Drop.MALFORMED
        except MalformedMessage as malformed:
            reason, error = why_malformed(malformed), malformed
        self.drop(reason, record.where, error=str(error))

    async def _keep(self, records: Sequence[Record]) -> None:
        candidates = [
            (record, sample) for record in records if (sample := self._admitted(record)) is not None
        ]
        trained = await self._trained([sample for _, sample in candidates])
        for record, sample in candidates:
            waiting = Waiting(sample, record.partition.number, record.offset, self._now_s())
            if sample.rollout_id in trained:
                self._refuse(Drop.ALREADY_TRAINED, record, sample)
            elif not self._buffer.add(waiting):
                self.drop(Drop.DUPLICATE, record.where)
        self._show()

    def _admitted(self, record: Record) -> TrainingSample | None:
        try:
            sample: TrainingSample = record.message()
        except MalformedMessage as error:
            self.drop(why_malformed(error), record.where, error=str(error))
            return None
        if reason := self._admission.refuses(sample, self._newest()):
            self._refuse(reason, record, sample)
            return None
        return sample

    def _refuse(self, reason: Drop, record: Record, sample: TrainingSample) -> None:
        self._buffer.settle(sample)
        self.drop(reason, record.where, rollout_id=str(sample.rollout_id))

    async def _trained(self, samples: Sequence[TrainingSample]) -> set[UUID]:
        if not samples:
            return set()
        rollout_ids = {sample.rollout_id for sample in samples}
        return await self._patience(
            "database", lambda: self._repository.trained_among(rollout_ids), DatabaseUnreachable
        )

    def _show(self) -> None:
        metrics.BUFFERED.labels(self._admission.policy).set(len(self._buffer))
        for queue, rollouts in self.backlog.items():
            metrics.BACKLOG.labels(self._admission.policy, queue).set(rollouts)
