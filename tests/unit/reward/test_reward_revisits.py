"""The processor and the log's past: late feedback is read again once for all, and held open until then."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from leyden_platform.clock import ManualClock
from leyden_platform.messaging import MemoryPublisher, Moment, Partition, Record, Unavailable
from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import EPOCH, Rollout
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Assembly
from leyden_reward.handlers import RewardProcessor
from leyden_reward.history import Past
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.scoring import Scoring
from leyden_reward.sessions import SessionRules
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    Mode,
    SignalRecorded,
    Topics,
    Trajectory,
    encode,
)

PARTITION = Partition(Topics.EVENTS.name, 0)
RULES = SessionRules(idle=timedelta(hours=1), longest=timedelta(hours=4))


class Log:
    """Events with their times, and what of it was read again."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.read_from: list[Moment] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, event: EventMessage, at: datetime) -> Record:
        stamp = int(at.timestamp() * 1000)
        record = Record(PARTITION, len(self.records), event.key().encode(), encode(event), {}, stamp)
        self.records.append(record)
        return record

    async def read(self, partition: Partition, since: Moment, until: int) -> AsyncIterator[Record]:
        assert partition == PARTITION
        self.read_from.append(since)
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        for record in self.records[:until]:
            at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
            if (record.offset if isinstance(since, int) else at) >= since:  # type: ignore[operator]
                yield record


class Bench:
    """Members of a reward group, one after the other, over one log."""

    def __init__(self, log: Log | None = None, timeout_s: float = 5.0) -> None:
        self.log, self.clock, self.timeout_s = log or Log(), ManualClock(EPOCH), timeout_s
        self.publisher = MemoryPublisher()
        self.processor = self.member()

    def member(self) -> RewardProcessor:
        def assembly(**how: Any) -> Assembly:
            return Assembly(sessions=RULES, **how)

        scoring = Scoring(Grader(RewardWorkers(CatalogueSettings())), Shaping(cap=0.0))
        past = Past(self.log, PARTITION, assembly, timeout_s=self.timeout_s)
        return RewardProcessor(
            assembly=assembly(), scoring=scoring, publisher=self.publisher, clock=self.clock, past=past
        )

    async def feed(self, *events: EventMessage) -> None:
        for event in events:
            await self.processor.handle(self.log.add(event, self.clock.now()))

    async def restart(self, at: int) -> None:
        """A new member that begins at this offset."""
        await self.processor.close()
        self.processor = self.member()
        for record in self.log.records[at:]:
            await self.processor.handle(record)

    @property
    def revisions(self) -> list[tuple[int, float]]:
        """Revision and reward of what was published, in order."""
        found = [message for message in self.publisher.published if isinstance(message, Trajectory)]
        return [(trajectory.revision, trajectory.reward) for trajectory in found]


class Chat(Rollout):
    def asked(self, **changes: Any) -> CompletionRecorded:
        return self.completion(**({"mode": Mode.PRODUCTION, "session": "s"} | changes))

    def said(self, value: float = 1.0, **changes: Any) -> SignalRecorded:
        return self.signal(value, **({"source": "shop"} | changes))


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("leyden_reward_events_dropped_total", {"reason": reason}) or 0.0


async def test_late_feedback_holds_the_log_until_its_revision_is_published() -> None:
    bench, chat = Bench(), Chat()
    await bench.feed(chat.asked(), chat.said(-1.0), chat.finished(source="shop"))
    await bench.processor.drain()
    assert bench.processor.watermark() is None
    bench.log.gate.clear()
    await bench.feed(chat.said(1.0))
    assert bench.processor.watermark() == 3
    bench.log.gate.set()
    await bench.processor.drain()
    assert bench.revisions == [(0, 0.0), (1, 1.0)]
    assert bench.processor.watermark() is None
    assert bench.log.read_from == [0]


async def test_all_that_waits_is_read_at_once() -> None:
    bench, chats = Bench(), [Chat() for _ in range(5)]
    for chat in chats:
        await bench.feed(chat.asked(), chat.finished(source="shop"))
    bench.log.gate.clear()
    await bench.feed(*(chat.said() for chat in chats))
    bench.log.gate.set()
    await bench.processor.drain()
    assert bench.revisions[5:] == [(1, 1.0)] * 5
    assert len(bench.log.read_from) <= 2


async def test_a_restart_gives_the_same_revisions_again() -> None:
    bench, chat = Bench(), Chat()
    await bench.feed(chat.asked(), chat.finished(source="shop"), chat.said(1.0), chat.said(-1.0))
    await bench.processor.drain()
    before = [encode(message) for message in bench.publisher.published]
    await bench.restart(at=2)
    await bench.processor.drain()
    after = [encode(message) for message in bench.publisher.published]
    assert bench.revisions == [(0, 0.0), (1, 1.0), (2, 0.0), (1, 1.0), (2, 0.0)]
    assert after[3:] == before[1:]


async def test_feedback_on_nothing_is_counted_and_let_go() -> None:
    bench, before = Bench(), dropped("unknown_rollout")
    await bench.feed(Chat().said())
    await bench.processor.drain()
    assert dropped("unknown_rollout") == before + 1
    assert bench.processor.watermark() is None
    assert bench.log.read_from == [EPOCH - timedelta(days=7)]


async def test_a_past_that_takes_too_long_is_given_up() -> None:
    bench, chat, before = Bench(timeout_s=0.05), Chat(), dropped("not_readable")
    await bench.feed(chat.asked(), chat.finished(source="shop"))
    bench.log.gate.clear()
    await bench.feed(chat.said())
    await bench.processor.drain()
    assert dropped("not_readable") == before + 1
    assert bench.processor.watermark() is None


async def test_a_log_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden_reward.revisits._PAUSE_S", 0.0)
    bench, chat = Bench(), Chat()
    await bench.feed(chat.asked(), chat.finished(source="shop"))
    bench.log.failures = [Unavailable("no broker")]
    await bench.feed(chat.said())
    await bench.processor.drain()
    assert bench.revisions[-1] == (1, 1.0)


async def test_what_nobody_expected_fails_the_service() -> None:
    bench, chat = Bench(), Chat()
    await bench.feed(chat.asked(), chat.finished(source="shop"))
    bench.log.failures = [RuntimeError("a defect")]
    await bench.feed(chat.said())
    with pytest.raises(RuntimeError, match="a defect"):
        await bench.processor.drain()
    with pytest.raises(RuntimeError, match="a defect"):
        await bench.processor.tick()
    assert bench.processor.watermark() == 2


async def test_a_member_that_starts_in_the_middle_of_a_session_does_not_publish_its_rest() -> None:
    bench, done, rest = Bench(), Chat(), Chat()
    await bench.feed(done.asked(), rest.asked(), done.asked(), done.finished(source="shop"))
    await bench.processor.drain()
    assert bench.processor.watermark() == 1
    await bench.restart(at=1)
    await bench.feed(rest.finished(source="shop"), done.said())
    await bench.processor.drain()
    published = [m for m in bench.publisher.published if isinstance(m, Trajectory)]
    assert [(t.rollout_id, t.revision, len(t.steps)) for t in published] == [
        (done.rollout_id, 0, 2),
        (rest.rollout_id, 0, 1),
        (done.rollout_id, 1, 2),
    ]
    assert bench.log.read_from[0] == EPOCH - timedelta(hours=1)


async def test_runners_traffic_never_looks_back() -> None:
    bench, rollout = Bench(), Rollout()
    await bench.feed(Rollout().started(), rollout.started(), rollout.completion())
    await bench.restart(at=1)
    await bench.feed(rollout.finished(), Rollout().completion())
    await bench.processor.drain()
    assert bench.log.read_from == []


async def test_nor_does_a_member_that_saw_the_beginning_or_has_been_there_for_long() -> None:
    bench = Bench()
    await bench.feed(Chat().asked(), Rollout().started())
    await bench.restart(at=1)
    bench.clock.advance(3601)
    await bench.feed(Chat().asked())
    assert bench.log.read_from == []


async def test_a_past_that_is_away_is_asked_for_again_with_the_same_event() -> None:
    bench, chat = Bench(), Chat()
    await bench.feed(Rollout().started(), Rollout().started())
    await bench.restart(at=1)
    bench.log.failures = [Unavailable("no broker")]
    record = bench.log.add(chat.asked(), bench.clock.now())
    with pytest.raises(Unavailable):
        await bench.processor.handle(record)
    await bench.processor.handle(record)
    await bench.feed(chat.finished(source="shop"))
    await bench.processor.drain()
    assert len(bench.revisions) == 1


async def test_without_a_past_late_feedback_is_late() -> None:
    chat, before = Chat(), dropped("late")
    scoring = Scoring(Grader(RewardWorkers(CatalogueSettings())), Shaping(cap=0.0))
    processor = RewardProcessor(
        assembly=Assembly(), scoring=scoring, publisher=MemoryPublisher(), clock=ManualClock(EPOCH)
    )
    log = Log()
    for event in (chat.asked(), chat.finished(source="shop"), chat.said()):
        await processor.handle(log.add(event, EPOCH))
    await processor.drain()
    assert dropped("late") == before + 1
