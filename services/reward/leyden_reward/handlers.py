"""The shell of the reward service: one partition of events in, scored trajectories out.

A rollout holds its first offset open until its trajectory is acknowledged, so a crash at any moment
replays it from its start and gives the same trajectory again.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import structlog

from leyden_platform.clock import Clock
from leyden_platform.messaging import OffsetTracker, Publisher, Record, Unavailable
from leyden_platform.messaging.logclock import LogClock
from leyden_platform.telemetry import span
from leyden_reward import metrics
from leyden_reward.assembly import Assembly
from leyden_reward.decisions import Closed, Decision, Drop, Dropped, Kept, KeptInPart, Opened, Revisit
from leyden_reward.history import Past
from leyden_reward.publishing import measure, publish
from leyden_reward.revisits import Revisits
from leyden_reward.scoring import Scoring, excluded, is_pending
from leyden_schemas import EventMessage, Trajectory

log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """Where on its partition a record lies."""

    offset: int
    timestamp_ms: int


class RewardProcessor:
    """The open rollouts of one partition, and those being scored."""

    def __init__(
        self,
        *,
        assembly: Assembly,
        scoring: Scoring,
        publisher: Publisher,
        clock: Clock,
        past: Past | None = None,
        max_pending: int = 1_000,
    ) -> None:
        self._assembly, self._scoring, self._publisher = assembly, scoring, publisher
        self._time = LogClock(clock)
        self._max_pending = max_pending
        self._tracker = OffsetTracker()
        self._pending: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._unknown_past, self._first = past, _Place(-1, 0)
        self._revisits = Revisits(past, self._revisited) if past else None

    async def handle(self, record: Record) -> None:
        """Take in one event; return once scoring, if it closed a rollout, is under way."""
        event = record.message()
        now = self._time.read(record.timestamp_ms)
        await self._look_back(event, record)
        metrics.events(event.type).inc()
        for decision in self._assembly.take(event, record.offset, now):
            self._carry_out(decision, record.headers)
        await self._room()

    async def _look_back(self, event: EventMessage, record: Record) -> None:
        """Before the first event that would begin a session, find out what sessions go on from before.

        One that was open then had an event no longer ago than sessions may be idle, and has its next one as
        soon; later, an unknown session has begun after this member did. Raises ``Unavailable``.
        """
        if self._first.offset < 0:
            self._first = _Place(record.offset, record.timestamp_ms)
        if self._unknown_past is None or not self._assembly.may_go_on(event):
            return
        past, self._unknown_past = self._unknown_past, None
        reach = self._assembly.rules.idle
        passed = timedelta(milliseconds=record.timestamp_ms - self._first.timestamp_ms)
        if self._first.offset == 0 or passed > reach:
            return
        try:
            self._assembly.remember(await past.before(*self._first, reach=reach))
        except TimeoutError:
            metrics.PAST_UNKNOWN.inc()
            log.error("past_not_read", offset=self._first.offset, timeout_s=past.timeout_s)
        except Unavailable:
            self._unknown_past = past
            raise

    async def tick(self) -> None:
        """Close what is past its deadline. Raises what broke a scoring in the background."""
        self._raise_failure()
        for closed in self._assembly.overdue(self._time.now()):
            self._carry_out(closed, {})

    def watermark(self) -> int | None:
        """The first offset of the oldest rollout that is open or not yet published."""
        return self._tracker.low()

    async def drain(self) -> None:
        """Publish what is being scored; open rollouts stay in the log."""
        while under_way := self._under_way():
            await asyncio.wait(under_way)
        self._raise_failure()

    async def close(self) -> None:
        """Forget everything; it will be rebuilt from the log elsewhere."""
        metrics.OPEN.dec(len(self._assembly))
        pending = self._under_way()
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _raise_failure(self) -> None:
        if failure := self._failure or (self._revisits and self._revisits.failure):
            raise failure

    def _under_way(self) -> "list[asyncio.Task[None]]":
        reading = self._revisits.reading if self._revisits else None
        return [*self._pending, reading] if reading else list(self._pending)

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
            case Revisit():
                self._revisit(decision)
            case KeptInPart():
                metrics.BASES_UNKNOWN.inc()
            case Kept():
                pass

    def _revisit(self, visit: Revisit) -> None:
        if self._revisits is None:
            metrics.EVENTS_DROPPED.labels(Drop.LATE).inc()
            return
        self._tracker.begin(visit.offset)
        self._revisits.ask(visit)

    def _revisited(self, offset: int, decision: Closed | Dropped) -> None:
        """Publish a revision, or let go of feedback that makes none."""
        match decision:
            case Closed():
                self._begin(decision, {})
            case Dropped(reason):
                metrics.EVENTS_DROPPED.labels(reason).inc()
                self._tracker.done(offset)

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
        while len(self._pending) + len(self._revisits or ()) > self._max_pending:
            await asyncio.wait(self._under_way(), return_when=asyncio.FIRST_COMPLETED)

    async def _score_and_publish(self, closed: Closed, headers: Mapping[str, str]) -> None:
        with span("reward.score", headers, **{"leyden.rollout_id": str(closed.trajectory.rollout_id)}):
            trajectory = await publish(self._publisher, await self._score(closed))
        self._tracker.done(closed.offset)
        if not is_pending(trajectory):
            measure(trajectory)

    async def _score(self, closed: Closed) -> Trajectory:
        try:
            return await self._scoring.score(closed)
        except Exception as error:  # the seam: what one agent sent must not stop the others
            log.error("scoring_failed", rollout_id=str(closed.trajectory.rollout_id), exc_info=error)
            return excluded(closed.trajectory, "scoring_failed", f"{type(error).__name__}: {error}")
