"""The shell of ranking: one partition of ``leyden.rankings.v1`` in, scored trajectories out.

A group holds its first offset open until all its trajectories are acknowledged. Groups are judged side by
side, a bounded number at once.
"""

import asyncio
from collections.abc import Sequence

import structlog

from leyden_platform.clock import Clock
from leyden_platform.messaging import OffsetTracker, Publisher, Record
from leyden_platform.messaging.logclock import LogClock
from leyden_reward import metrics
from leyden_reward.publishing import measure, publish
from leyden_reward.ranking.groups import (
    Decision,
    Foreign,
    Gathered,
    Late,
    Opened,
    Repeated,
    RevisedLate,
    WaitingGroups,
)
from leyden_reward.ranking.ranking import LATE, Ranking
from leyden_reward.scoring import excluded, is_pending
from leyden_schemas import Trajectory

log = structlog.get_logger(__name__)


class RankingProcessor:
    """The open groups of one partition, and those being ranked."""

    def __init__(
        self,
        *,
        groups: WaitingGroups,
        ranking: Ranking,
        publisher: Publisher,
        clock: Clock,
        max_pending: int = 64,
    ) -> None:
        self._groups, self._ranking, self._publisher = groups, ranking, publisher
        self._time = LogClock(clock)
        self._max_pending = max_pending
        self._tracker = OffsetTracker()
        self._pending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def handle(self, record: Record) -> None:
        """Take in one trajectory; return once ranking, if it completed a group, is under way."""
        trajectory = record.message()
        now = self._time.read(record.timestamp_ms)
        for decision in self._groups.take(trajectory, record.offset, now):
            self._carry_out(decision, record.offset)
        while len(self._pending) > self._max_pending:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)

    async def tick(self) -> None:
        """Close what is past its deadline. Raises what broke a ranking in the background."""
        if self._failure:
            raise self._failure
        for decision in self._groups.overdue(self._time.now()):
            self._carry_out(decision, 0)

    def watermark(self) -> int | None:
        """The first offset of the oldest group that is open or not yet published."""
        return self._tracker.low()

    async def drain(self) -> None:
        """Publish what is being ranked; open groups stay in the log."""
        while self._pending:
            await asyncio.wait(self._pending)
        if self._failure:
            raise self._failure

    async def close(self) -> None:
        """Forget everything; it will be rebuilt from the log elsewhere."""
        pending = list(self._pending)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _carry_out(self, decision: Decision, offset: int) -> None:
        match decision:
            case Opened(first):
                self._tracker.begin(first)
            case Repeated():
                metrics.RANKINGS.labels("repeated").inc()
            case Late(trajectory):
                metrics.RANKINGS.labels("late").inc()
                self._tracker.begin(offset)
                self._begin(offset, [trajectory], late=True)
            case RevisedLate():
                metrics.RANKINGS.labels("revised_late").inc()
            case Foreign(trajectory):
                metrics.RANKINGS.labels("other_task").inc()
                ids = {"rollout_id": str(trajectory.rollout_id), "group_id": str(trajectory.group_id)}
                log.warning("ranking_of_another_task", **ids, tenant=trajectory.tenant)
            case Gathered(first, rollouts):
                metrics.RANKINGS.labels("ranked").inc(len(rollouts))
                self._begin(first, rollouts)

    def _begin(self, offset: int, rollouts: Sequence[Trajectory], *, late: bool = False) -> None:
        task = asyncio.create_task(self._rank_and_publish(offset, rollouts, late))
        self._pending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._pending.discard(task)
        if not task.cancelled() and task.exception():
            self._failure = task.exception()

    async def _rank_and_publish(self, offset: int, rollouts: Sequence[Trajectory], late: bool) -> None:
        after = [_too_late(one) for one in rollouts] if late else await self._settle(rollouts)
        for before, settled in zip(rollouts, after, strict=True):
            published = await publish(self._publisher, settled)
            if is_pending(before):
                measure(published)
        self._tracker.done(offset)

    async def _settle(self, rollouts: Sequence[Trajectory]) -> list[Trajectory]:
        try:
            return await self._ranking.settle(rollouts)
        except Exception as error:  # the seam: what one group holds must not stop the others
            log.error("ranking_failed", group_id=str(rollouts[0].group_id), exc_info=error)
            text = f"{type(error).__name__}: {error}"
            return [excluded(rollout, "scoring_failed", text) for rollout in rollouts]


def _too_late(rollout: Trajectory) -> Trajectory:
    """A rollout that failed or was excluded before needs no comparison."""
    return excluded(rollout, LATE, "its group was ranked without it") if is_pending(rollout) else rollout
