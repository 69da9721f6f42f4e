"""The shell of the credit service: one partition of trajectories in, training samples out.

A group holds its first offset open until its samples are acknowledged, so a crash at any moment replays it
and gives samples with the same ids again.
"""

import asyncio
from collections import deque

import structlog

from leyden_credit import metrics
from leyden_credit.crediting import Credited, Crediting, GroupDrop
from leyden_credit.groups import ClosedGroup, Decision, Dropped, Groups, Kept, Opened
from leyden_platform.clock import Clock
from leyden_platform.messaging import OffsetTracker, Publisher, Record, Rejected
from leyden_platform.messaging.logclock import LogClock
from leyden_schemas import TrainingSample

log = structlog.get_logger(__name__)


class CreditProcessor:
    """The open groups of one partition, and closed ones whose samples are not yet acknowledged."""

    def __init__(self, *, groups: Groups, crediting: Crediting, publisher: Publisher, clock: Clock) -> None:
        self._groups, self._crediting, self._publisher = groups, crediting, publisher
        self._time = LogClock(clock)
        self._tracker = OffsetTracker()
        self._unpublished: deque[tuple[int, Credited]] = deque()
        self._taken = -1

    async def handle(self, record: Record) -> None:
        """Take in one trajectory; publish the samples of its group when that closes it.

        When publishing fails the seam calls again with the same record, which is then not taken in twice.
        """
        if record.offset > self._taken:
            trajectory = record.message()
            metrics.TRAJECTORIES.labels(trajectory.status.value).inc()
            now = self._time.read(record.timestamp_ms)
            for decision in self._groups.take(trajectory, record.offset, now):
                self._carry_out(decision)
            self._taken = record.offset
        await self._publish()

    async def tick(self) -> None:
        """Close what is past its deadline, and publish."""
        for closed in self._groups.overdue(self._time.now()):
            self._carry_out(closed)
        await self._publish()

    def watermark(self) -> int | None:
        """The first offset of the oldest group that is open or not yet published."""
        return self._tracker.low()

    async def drain(self) -> None:
        """Publish what is closed; open groups stay in the log."""
        await self._publish()

    async def close(self) -> None:
        """Forget everything; it will be rebuilt from the log elsewhere."""
        metrics.OPEN.dec(len(self._groups))

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Opened(offset):
                metrics.OPEN.inc()
                self._tracker.begin(offset)
            case Dropped(reason):
                metrics.TRAJECTORIES_DROPPED.labels(reason).inc()
            case ClosedGroup():
                metrics.OPEN.dec()
                metrics.GROUPS.labels("complete" if decision.complete else "deadline").inc()
                self._unpublished.append((decision.offset, self._credit(decision)))
            case Kept():
                pass

    def _credit(self, group: ClosedGroup) -> Credited:
        credited = self._try(group)
        if credited.group:
            metrics.GROUPS_DROPPED.labels(credited.group).inc()
        for rollout in credited.rollouts:
            metrics.ROLLOUTS_DROPPED.labels(rollout).inc()
        for step in credited.steps:
            metrics.STEPS_DROPPED.labels(step).inc()
        versions = credited.versions
        metrics.GROUPS_MIXED.inc(len(versions) > 1)
        log.info(
            "group_credited",
            group_id=str(group.members[0].head().group_id),
            rollouts=len(group.members),
            complete=group.complete,
            samples=len(credited.samples),
            dropped=credited.group,
            versions=versions,
        )
        return credited

    def _try(self, group: ClosedGroup) -> Credited:
        try:
            return self._crediting.credit(group)
        except Exception as error:  # the seam: what is odd in one group must not stop the others
            log.error("crediting_failed", group_id=str(group.members[0].head().group_id), exc_info=error)
            return Credited(group=GroupDrop.FAILED)

    async def _publish(self) -> None:
        """Publish, oldest group first. Raises ``Unavailable``; what is not acknowledged stays in hand."""
        while self._unpublished:
            offset, credited = self._unpublished[0]
            await asyncio.gather(*map(self._publish_sample, credited.samples))
            self._unpublished.popleft()
            self._tracker.done(offset)

    async def _publish_sample(self, sample: TrainingSample) -> None:
        try:
            await self._publisher.publish(sample)
        except Rejected as error:
            metrics.ROLLOUTS_DROPPED.labels(error.reason).inc()
            log.error("sample_dropped", rollout_id=str(sample.rollout_id), error=str(error))
            return
        metrics.SAMPLES.labels(sample.estimator).inc()
        metrics.ROWS.observe(len(sample.rows))
        metrics.SAMPLED_TOKENS.inc(sample.sampled_tokens)
