"""The replay put together: the only place that knows which classes play which part.

Read the stretch, score it, credit it, write it, then read what the live services had found and compare.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from leyden_credit.app import processors as credit_processors
from leyden_platform.messaging import BoundedReader
from leyden_platform.settings import KafkaSettings
from leyden_replay import facts
from leyden_replay.before import read_before
from leyden_replay.comparison import Comparison, Told, compare
from leyden_replay.definitions import Definitions
from leyden_replay.edges import Edge, LogEdge
from leyden_replay.merge import merged
from leyden_replay.pipeline import Chunk, Pipeline
from leyden_replay.roster import Roster, Selection
from leyden_replay.stream import ReplayStream, topics_of
from leyden_replay.stretch import BEFORE_ALL, NothingThere, Stretch, in_order, plan
from leyden_replay.summary import Counts, Edges, Metrics, Summary, grown, metrics_now
from leyden_reward.app import processors as reward_processors
from leyden_reward.app import rankings, reward_workers
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_schemas import Topics

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is (0 when that is not known)."""

_EARLIER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Request:
    """Everything a replay is told. ``now`` is the latest time that counts as past."""

    name: str
    kafka: KafkaSettings
    since: Edge
    until: Edge
    definitions: Definitions
    now: datetime
    as_asked: tuple[str, str] = ("beginning", "end")
    selection: Selection = field(default_factory=Selection)
    lead_in: timedelta = timedelta(minutes=20)
    dry_run: bool = False
    compared: bool = True
    events: str = Topics.EVENTS.name

    @property
    def ends(self) -> datetime | None:
        """How far the log's time goes; None where offsets cut it off: what follows the last record has not
        happened, and so no deadline passes there.
        """
        match self.until:
            case datetime() as until:
                return min(until, self.now)
            case LogEdge():
                return self.now
            case _:
                return None


@dataclass(slots=True)
class _Found:
    """What a replay has found so far."""

    after: Told = field(default_factory=lambda: Told({}, {}))
    ended: set[UUID] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)
    examples: dict[str, str] = field(default_factory=dict)
    last: datetime | None = None

    def add(self, chunk: Chunk) -> None:
        """Take note of a chunk's results."""
        self.counts.events += chunk.records
        self.counts.malformed += chunk.malformed
        self.counts.failed += chunk.failed
        self.last = chunk.time if chunk.records else self.last
        for result in chunk.trajectories:
            rollout_id, scored = facts.scored(result.value)
            self.ended.add(rollout_id)
            if not result.cause.counts:
                self.counts.lead_in += 1
                continue
            self.after.scored[rollout_id] = scored
            if scored.reason:
                self.examples.setdefault(scored.reason, scored.error)
        for result in chunk.samples:
            rollout_id, credited = facts.credited(result.value)
            self.after.credited[rollout_id] = credited


async def replay(request: Request, progress: Progress = lambda *_: None) -> Summary:
    """Run to the end and tell what came of it.

    Raises ``BadEdge``, ``RangeGone``, ``NothingThere``, ``BadName``, ``NameTaken``, ``OtherDefinitions``,
    ``CatalogueError``, and ``Unavailable`` when the broker stays away. What was written by then stays; the
    same replay again adds only what is missing.
    """
    check(request)
    found, timings = _Found(), dict[str, float]()
    marks = [metrics_now()]
    roster = Roster(request.name, request.selection, request.definitions.change)
    with _timed(timings, "replay"):
        async with BoundedReader(request.kafka, request.events) as reader:
            stretch = await plan(
                reader, request.since, request.until, lead_in=request.lead_in, now=request.now
            )
            async with _stream(request) as stream, _pipeline(request, stretch, marks) as pipeline:
                await _go_over(request, reader, stretch, pipeline, roster, stream, found, progress)
                marks.append(metrics_now())
    _complete(found, roster, marks)
    if not found.after.scored:
        raise NothingThere(_nothing(found.counts))
    comparison = None
    if request.compared:
        with _timed(timings, "comparison"):
            comparison = await _compare(request, stretch, found.after, progress)
    return _summary(request, stretch, found, marks, stream, comparison, timings)


def check(request: Request) -> None:
    """What can be told without a broker. Raises ``BadEdge`` or ``BadName``."""
    topics_of(request.name)
    in_order(request.since, request.until, request.now)


async def _go_over(
    request: Request,
    reader: BoundedReader,
    stretch: Stretch,
    pipeline: Pipeline,
    roster: Roster,
    stream: ReplayStream | None,
    found: _Found,
    progress: Progress,
) -> None:
    records = merged(reader, stretch, latest=request.now)
    async for chunk in pipeline.run(
        records, lambda record, counts: roster.take(record, counts=counts), request.ends
    ):
        found.add(chunk)
        if stream is not None:
            await stream.write(
                [result for result in (*chunk.trajectories, *chunk.samples) if result.cause.counts]
            )
        progress("replaying", found.counts.events, stretch.records)
    progress("replaying", stretch.records, stretch.records)


@asynccontextmanager
async def _pipeline(request: Request, stretch: Stretch, marks: list[Metrics]) -> AsyncIterator[Pipeline]:
    """The services' processors, with workers and a judge of their own for as long as it lasts."""
    reward, credit = request.definitions.reward, request.definitions.credit
    workers, judge = reward_workers(reward), JudgeClient(reward.judge)
    await workers.start()
    pipeline = Pipeline(
        lambda publisher, clock: reward_processors(reward, workers, publisher, clock, judge=judge),
        lambda publisher, clock: credit_processors(credit, publisher, clock),
        stretch,
        max_message_bytes=request.kafka.max_message_bytes,
        ranking=(lambda publisher, clock: rankings(reward, workers, publisher, clock, judge))
        if reward.judge.url is not None
        else None,
        at_start=lambda: marks.append(metrics_now()),
    )
    try:
        yield pipeline
    finally:
        await pipeline.close()
        await judge.close()
        await workers.stop()


@asynccontextmanager
async def _stream(request: Request) -> AsyncIterator[ReplayStream | None]:
    if request.dry_run:
        yield None
        return
    async with ReplayStream(request.kafka, request.name, request.definitions.digest) as stream:
        yield stream


async def _compare(request: Request, stretch: Stretch, after: Told, progress: Progress) -> Comparison:
    since = max(BEFORE_ALL, stretch.since - _EARLIER)
    read = 0

    def seen(count: int) -> None:
        nonlocal read
        read += count
        if read % 500 == 0:
            progress("comparing", read, 0)

    before = await read_before(request.kafka, after.scored.keys(), since, seen)
    return compare(before, after)


def _complete(found: _Found, roster: Roster, marks: list[Metrics]) -> None:
    counts = found.counts
    counts.passed_over = roster.passed_over
    counts.rollouts, counts.samples = len(found.after.scored), len(found.after.credited)
    counts.began_before, counts.unfinished = roster.cut_off(found.ended)
    counts.excluded = dict(Counter(scored.reason for scored in found.after.scored.values() if scored.reason))
    counts.groups_unfinished = grown(marks[0], marks[-1]).get("credit_open_groups", 0)


def _nothing(counts: Counts) -> str:
    seen = f"{counts.events} events were read"
    parts = {
        "of other tenants, runs or policies": counts.passed_over,
        "rollouts began before what was read": counts.began_before,
        "rollouts were not finished": counts.unfinished,
        "rollouts ended before it": counts.lead_in,
        "events could not be read": counts.malformed + counts.failed,
    }
    more = "; ".join(f"{count} {what}" for what, count in parts.items() if count)
    return f"no rollout ended in this stretch: {seen}" + (f"; {more}" if more else "")


def _summary(
    request: Request,
    stretch: Stretch,
    found: _Found,
    marks: list[Metrics],
    stream: ReplayStream | None,
    comparison: Comparison | None,
    timings: dict[str, float],
) -> Summary:
    dropped = grown(marks[1], marks[-1])
    dropped.pop("credit_open_groups", None)
    return Summary(
        name=request.name,
        dry_run=request.dry_run,
        definitions=request.definitions.text,
        digest=request.definitions.digest,
        scored_by=dict(
            Counter(s.by for s in found.after.scored.values() if s.final is not None).most_common(20)
        ),
        estimators=dict(Counter(sample.estimator for sample in found.after.credited.values())),
        edges=Edges(
            since=request.as_asked[0],
            until=request.as_asked[1],
            reads_from=stretch.reads_from if stretch.reads_from > BEFORE_ALL else None,
            counts_from=stretch.since if stretch.since > BEFORE_ALL else None,
            last=found.last,
            lead_in_cut=stretch.lead_in_cut,
        ),
        counts=found.counts,
        dropped=dropped,
        written=dict(stream.counts) if stream else {},
        examples=found.examples,
        comparison=comparison,
        timings=timings,
    )


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    timings[stage] = time.monotonic() - began
