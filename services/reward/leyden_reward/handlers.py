"""The shell of the reward service: one partition of events in, scored trajectories out.

A rollout holds its first offset open until its trajectory is acknowledged, so a crash at any moment
replays it from its start and gives the same trajectory again.
"""

import asyncio
from collections.abc import Mapping

import structlog

from leyden_platform.clock import Clock
from leyden_platform.messaging import OffsetTracker, Publisher, Record, Rejected, Unavailable
from leyden_platform.messaging.logclock import LogClock
from leyden_platform.telemetry import span
from leyden_reward import metrics
from leyden_reward.air.rules import RULES
from leyden_reward.assembly import Assembly, Closed, Decision, Dropped, Kept, KeptInPart, Opened
from leyden_reward.scoring import Scoring, excluded
from leyden_schemas import Trajectory

log = structlog.get_logger(__name__)
_RULE_NAMES = frozenset(rule.name for rule in RULES)
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0


class RewardProcessor:
    """The open rollouts of one partition, and those being scored."""

    def __init__(
        self,
        *,
        assembly: Assembly,
        scoring: Scoring,
        publisher: Publisher,
        clock: Clock,
        max_pending: int = 1_000,
    ) -> None:
        self._assembly, self._scoring, self._publisher = assembly, scoring, publisher
        self._time = LogClock(clock)
        self._max_pending = max_pending
        self._tracker = OffsetTracker()
        self._pending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def handle(self, record: Record) -> None:
        """Take in one event; return once scoring, if it closed a rollout, is under way."""
        event = record.message()
        metrics.EVENTS.labels(event.type).inc()
        for decision in self._assembly.take(event, record.offset, self._time.read(record.timestamp_ms)):
            self._carry_out(decision, record.headers)
        await self._room()

    async def tick(self) -> None:
        """Close what is past its deadline. Raises what broke a scoring in the background."""
        if self._failure:
            raise self._failure
        for closed in self._assembly.overdue(self._time.now()):
            self._carry_out(closed, {})

    def watermark(self) -> int | None:
        """The first offset of the oldest rollout that is open or not yet published."""
        return self._tracker.low()

    async def drain(self) -> None:
        """Publish what is being scored; open rollouts stay in the log."""
        while self._pending:
            await asyncio.wait(self._pending)
        if self._failure:
            raise self._failure

    async def close(self) -> None:
        """Forget everything; it will be rebuilt from the log elsewhere."""
        metrics.OPEN.dec(len(self._assembly))
        pending = list(self._pending)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _carry_out(self, decision: Decision, headers: Mapping[str, str]) -> None:
        match decision:
            case Opened(offset):
                metrics.OPEN.inc()
                self._tracker.begin(offset)
            case Dropped(reason, count):
                metrics.EVENTS_DROPPED.labels(reason).inc(count)
            case Closed():
                metrics.OPEN.dec()
                self._begin(decision, headers)
            case KeptInPart():
                metrics.BASES_UNKNOWN.inc()
            case Kept():
                pass

    def _begin(self, closed: Closed, headers: Mapping[str, str]) -> None:
        metrics.PENDING.inc()
        task = asyncio.create_task(self._score_and_publish(closed, headers))
        self._pending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        metrics.PENDING.dec()
        self._pending.discard(task)
        if not task.cancelled() and task.exception():
            self._failure = task.exception()

    async def _room(self) -> None:
        while len(self._pending) > self._max_pending:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)

    async def _score_and_publish(self, closed: Closed, headers: Mapping[str, str]) -> None:
        with span("reward.score", headers, **{"leyden.rollout_id": str(closed.trajectory.rollout_id)}):
            trajectory = await self._publish(await self._score(closed))
        self._tracker.done(closed.offset)
        _measure(trajectory)

    async def _score(self, closed: Closed) -> Trajectory:
        try:
            return await self._scoring.score(closed)
        except Exception as error:  # the seam: what one agent sent must not stop the others
            log.error("scoring_failed", rollout_id=str(closed.trajectory.rollout_id), exc_info=error)
            return excluded(closed.trajectory, "scoring_failed", f"{type(error).__name__}: {error}")

    async def _publish(self, trajectory: Trajectory) -> Trajectory:
        """Publish until acknowledged; return what was. One too large is excluded, without its steps."""
        pause_s, bare = _RETRY_FIRST_S, False
        while True:
            try:
                await self._publisher.publish(trajectory)
                return trajectory
            except Rejected as error:
                trajectory = excluded(
                    trajectory.model_copy(update={"steps": [], "output": None}), error.reason, str(error)
                )
                if bare:
                    log.error("trajectory_dropped", rollout_id=str(trajectory.rollout_id), error=str(error))
                    return trajectory
                bare = True
            except Unavailable as error:
                metrics.PUBLISH_RETRIES.inc()
                log.warning(
                    "trajectory_not_published", rollout_id=str(trajectory.rollout_id), error=str(error)
                )
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MOST_S)


def _measure(trajectory: Trajectory) -> None:
    split = trajectory.task.split.value
    metrics.TRAJECTORIES.labels(split, trajectory.status.value).inc()
    if trajectory.excluded_reason:
        metrics.EXCLUDED.labels(trajectory.excluded_reason).inc()
        return
    metrics.FINAL.labels(split).observe(trajectory.reward)
    for term in (term for step in trajectory.steps for term in step.terms if term.name in _RULE_NAMES):
        metrics.AIR_TERMS.labels(term.name).inc()
    log.info(
        "rollout_scored",
        rollout_id=str(trajectory.rollout_id),
        reward=trajectory.reward,
        intermediate=sum(step.reward for step in trajectory.steps),
        steps=len(trajectory.steps),
        outcome=trajectory.outcome.value,
        by=trajectory.scored_by,
    )
