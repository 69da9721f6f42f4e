"""Slots, leases and shutdown, on a ledger in memory and agents that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from leyden_platform.clock import ManualClock
from leyden_platform.messaging import MemoryPublisher, Partition, PublishFailed, Record, Unavailable
from leyden_runner.attempts import Access, Attempts
from leyden_runner.executors.base import Execution
from leyden_runner.gateway import GatewayProbe
from leyden_runner.handlers import RolloutProcessor
from leyden_runner.ledger import Lease
from leyden_runner.outcome import Raised, Returned
from leyden_runner.retries import RetryPolicy
from leyden_runner.rollouts import Job, Options, Rollouts, Stopping
from leyden_runner.testing import MemoryLedger, SharedRows
from leyden_schemas import Message, Outcome, RolloutAssigned, RolloutStarted, Task, Topics, encode


@dataclass
class Agent:
    """Ends when told to, with what it is told; remembers who ran and who was killed."""

    running: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    ends: dict[str, "asyncio.Future[Execution]"] = field(default_factory=dict)

    async def execute(self, task: Task, _environment: Mapping[str, str]) -> Execution:
        name = task.task_id or ""
        self.running.append(name)
        self.ends[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.ends[name]
        except asyncio.CancelledError:
            self.killed.append(name)
            raise

    def end(self, name: str) -> None:
        self.ends[name].set_result(Execution(Returned(name)))


@dataclass
class Desk:
    """A ``Rollouts`` with its surroundings."""

    rollouts: Rollouts
    agent: Agent
    shared: SharedRows
    clock: ManualClock
    publisher: MemoryPublisher
    done: list[str]

    def job(self, name: str) -> Job:
        return Job(assignment(name), done=lambda: self.done.append(name))


def assignment(name: str) -> RolloutAssigned:
    return RolloutAssigned.fan_out(Task(task_id=name, input={}, policy="p"))[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own timeout bounds it."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - watches state from outside
            await asyncio.sleep(0.002)


@asynccontextmanager
async def desk(
    concurrency: int = 2, grace_s: float = 5.0, publisher: MemoryPublisher | None = None
) -> AsyncIterator[Desk]:
    shared, clock, agent = SharedRows(), ManualClock(), Agent()
    publisher = publisher or MemoryPublisher()
    ledger = MemoryLedger(shared, owner="me", lease_s=15, clock=clock)
    gateway = GatewayProbe("http://127.0.0.1:9")
    attempts = Attempts(
        ledger,
        {"default": agent},
        publisher,
        gateway,
        Access("http://g", SecretStr("x" * 32)),
        owner="me",
        clock=clock,
        retry=RetryPolicy(0.01, 0.01),
    )
    options = Options(concurrency=concurrency, heartbeat_s=0.02, grace_s=grace_s)
    rollouts = Rollouts(attempts, ledger, gateway, options)
    stop = asyncio.Event()
    running = asyncio.create_task(rollouts.run(stop))
    yield Desk(rollouts, agent, shared, clock, publisher, [])
    stop.set()
    await running


async def test_a_rollout_is_announced_run_and_concluded() -> None:
    async with desk() as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.agent.running == ["a"])
        (started,) = here.publisher.published
        assert isinstance(started, RolloutStarted)
        assert (started.attempt, started.runner, started.key()) == (
            1,
            "me",
            str(assignment("a").rollout_id),
        )
        here.agent.end("a")
        await until(lambda: here.done == ["a"])
        (finished,) = here.shared.announced
        assert (finished.outcome, finished.output, finished.final) == (Outcome.SUCCEEDED, "a", True)


async def test_no_more_run_at_once_than_there_are_slots() -> None:
    async with desk(concurrency=2) as here:
        for name in "ab":
            await here.rollouts.take(here.job(name))
        third = asyncio.create_task(here.rollouts.take(here.job("c")))
        await until(lambda: here.agent.running == ["a", "b"])
        assert not third.done()
        here.agent.end("b")
        await third
        await until(lambda: here.agent.running == ["a", "b", "c"])
        here.agent.end("a")
        here.agent.end("c")
        await until(lambda: sorted(here.done) == ["a", "b", "c"])


async def test_a_duplicate_is_done_at_once() -> None:
    async with desk() as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: "a" in here.agent.ends)
        here.agent.end("a")
        await until(lambda: here.done == ["a"])
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.done == ["a", "a"])
        assert here.agent.running == ["a"]


async def test_a_rollout_leased_elsewhere_is_waited_for_without_a_slot() -> None:
    async with desk(concurrency=1) as here:
        other = MemoryLedger(here.shared, owner="other", lease_s=0.05, clock=here.clock)
        await other.claim(assignment("theirs"))
        await here.rollouts.take(here.job("theirs"))
        await here.rollouts.take(here.job("ours"))
        await until(lambda: here.agent.running == ["ours"])
        here.agent.end("ours")
        here.clock.advance(1)
        await until(lambda: here.agent.running == ["ours", "theirs"])
        here.agent.end("theirs")
        await until(lambda: here.done == ["ours", "theirs"])
        assert [event.attempt for event in here.shared.announced][-1] == 2


async def test_a_lost_lease_kills_the_agent_and_its_result_is_dropped() -> None:
    async with desk() as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.agent.running == ["a"])
        thief = MemoryLedger(here.shared, owner="thief", lease_s=0.05, clock=here.clock)
        here.shared.rows[assignment("a").rollout_id].available_at = here.clock.now()
        lease = await thief.claim(assignment("a"))
        assert isinstance(lease, Lease)
        await until(lambda: here.agent.killed == ["a"])
        assert here.done == []
        here.clock.advance(1)
        await until(lambda: here.agent.running == ["a", "a"])
        here.agent.end("a")
        await until(lambda: here.done == ["a"])
        assert [(e.attempt, e.outcome.value, e.final) for e in here.shared.announced] == [
            (1, "infrastructure_failed", False),
            (2, "infrastructure_failed", False),
            (3, "succeeded", True),
        ]


async def test_shutdown_gives_back_what_does_not_end() -> None:
    async with desk(grace_s=0.05) as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.agent.running == ["a"])
    assert here.agent.killed == ["a"]
    assert here.done == []
    (event,) = here.shared.announced
    assert (event.final, event.error) == (False, "the runner is shutting down")
    row = here.shared.rows[assignment("a").rollout_id]
    assert (row.owner, row.failures, row.outcome) == (None, 0, None)
    with pytest.raises(Stopping):
        await here.rollouts.take(here.job("b"))


async def test_an_unknown_agent_is_an_infrastructure_failure() -> None:
    async with desk() as here:
        task = assignment("a").task.model_copy(update={"agent": "elsewhere"})
        job = here.job("a")
        job.assigned = job.assigned.model_copy(update={"task": task})
        await here.rollouts.take(job)
        await until(lambda: len(here.shared.announced) == 1)
        here.clock.advance(60)
        await until(lambda: len(here.shared.announced) == 2)
        here.clock.advance(60)
        await until(lambda: here.done == ["a"])
        assert here.shared.announced[-1].error == "agent 'elsewhere' is not known here; known: default"
        starts = [event.attempt for event in here.publisher.published if isinstance(event, RolloutStarted)]
        assert starts == [event.attempt for event in here.shared.announced]


class AwayPublisher(MemoryPublisher):
    """Kafka, away for the first message."""

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        """Fail once."""
        if not self.raw:
            self.raw.append(("", None, b"", {}))
            raise PublishFailed("away")
        await super().publish(*messages, topic=topic)


async def test_kafka_being_away_costs_no_attempt() -> None:
    async with desk(publisher=AwayPublisher()) as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: len(here.shared.announced) == 1)
        here.clock.advance(1)
        await until(lambda: here.agent.running == ["a"])
        assert here.shared.rows[assignment("a").rollout_id].failures == 0
        here.agent.end("a")
        await until(lambda: here.done == ["a"])


async def a_bug() -> None:
    async with desk() as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.agent.running == ["a"])
        here.agent.ends["a"].set_exception(KeyError("a bug"))


async def test_an_error_of_ours_fails_the_component() -> None:
    with pytest.raises(KeyError, match="a bug"):
        await a_bug()


def record(name: str, offset: int) -> Record:
    return Record(Partition(Topics.ROLLOUTS.name, 0), offset, None, encode(assignment(name)))


async def test_the_watermark_is_the_lowest_open_offset() -> None:
    async with desk(concurrency=3) as here:
        processor = RolloutProcessor(here.rollouts)
        assert processor.watermark() is None
        for offset, name in enumerate("abc", start=7):
            await processor.handle(record(name, offset))
        await until(lambda: len(here.agent.running) == 3)
        assert processor.watermark() == 7
        here.agent.end("b")
        here.agent.end("a")
        await until(lambda: processor.watermark() == 9)
        here.agent.end("c")
        await until(lambda: processor.watermark() is None)


async def test_a_record_that_comes_again_is_in_hand_once() -> None:
    async with desk(concurrency=3) as here:
        processor = RolloutProcessor(here.rollouts)
        for _ in range(2):
            await processor.handle(record("a", 7))
        await until(lambda: here.agent.running == ["a"])
        assert len(here.rollouts._drivers) == 1
        here.agent.end("a")
        await until(lambda: processor.watermark() is None)
        await processor.handle(record("a", 7))
        await until(lambda: processor.watermark() is None)
        assert here.agent.running == ["a"]


async def test_an_assignment_that_is_not_taken_stays_uncommitted() -> None:
    async with desk() as here:
        here.rollouts._stopping.set()
        processor = RolloutProcessor(here.rollouts)
        with pytest.raises(Unavailable):
            await processor.handle(record("a", 3))
        assert processor.watermark() is None


async def test_what_the_agent_raised_is_final() -> None:
    async with desk() as here:
        await here.rollouts.take(here.job("a"))
        await until(lambda: here.agent.running == ["a"])
        here.agent.ends["a"].set_result(Execution(Raised("ValueError: mine")))
        await until(lambda: here.done == ["a"])
        assert here.shared.announced[-1].outcome is Outcome.AGENT_FAILED
