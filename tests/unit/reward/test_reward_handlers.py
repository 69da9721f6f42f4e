"""The processor: scores in the background, keeps its offsets open until published, survives bad luck."""

import asyncio
import random
import string
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from leyden_platform.clock import ManualClock
from leyden_platform.conversation import Turn
from leyden_platform.messaging import MemoryPublisher, Partition, PublishFailed, Record, Rejected
from leyden_platform.testing.rollouts import EPOCH, Rollout, answer, call, make_task
from leyden_reward.air.rule import Rule
from leyden_reward.air.rules import RULES
from leyden_reward.air.shaping import Shaping
from leyden_reward.assembly import Assembly
from leyden_reward.handlers import RewardProcessor
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.library.json_schema import json_schema
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict, verdict
from leyden_reward.scoring import Scoring
from leyden_schemas import (
    EventMessage,
    JsonObject,
    Limits,
    MalformedMessage,
    Message,
    Outcome,
    RewardSpec,
    RewardTerm,
    Split,
    Topics,
    Trajectory,
    TrajectoryStatus,
    decode,
    encode,
)

PARTITION = Partition(Topics.EVENTS.name, 0)
SLOW = make_task(reward=RewardSpec(name="slow"))


class FakeWorkers:
    """One user function, ``slow``, that answers when released; and one that always refuses."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.failure: Exception | None = None
        self.grades: dict[str, Callable[[Trajectory], object]] = {}
        self.refusal = "it returned nan"

    def __contains__(self, name: str) -> bool:
        return name in ("slow", "refusing")

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        if name == "refusing":
            return Refused(Reason.NOT_FINITE, self.refusal)
        if name in self.grades:
            return verdict(self.grades[name](trajectory), by=name, max_reward=10.0)
        await self.release.wait()
        if self.failure:
            raise self.failure
        return Graded((RewardTerm(name="reward", value=0.5),), "user:slow")


class FlakyPublisher(MemoryPublisher):
    """Fails as told before it keeps anything."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        if self.failures:
            raise self.failures.pop(0)
        await super().publish(*messages, topic=topic)


class Bench:
    """A processor with everything around it under control."""

    def __init__(
        self,
        publisher: MemoryPublisher | None = None,
        max_pending: int = 1_000,
        shaping: Shaping | None = None,
    ) -> None:
        self.publisher = publisher or MemoryPublisher()
        self.workers = FakeWorkers()
        self.clock = ManualClock(EPOCH)
        self.offset = 0
        self.processor = RewardProcessor(
            assembly=Assembly(grace_s=5.0, signal_weights={"thumb": 0.25}),
            scoring=Scoring(Grader(self.workers), shaping or Shaping(cap=0.25), failed_reward=-1.0),
            publisher=self.publisher,
            clock=self.clock,
            max_pending=max_pending,
        )

    async def feed(self, *events: EventMessage) -> None:
        """Hand over events at the next offsets, with the clock's time."""
        for event in events:
            stamp = int(self.clock.now().timestamp() * 1000)
            record = Record(PARTITION, self.offset, event.key().encode(), encode(event), {}, stamp)
            self.offset += 1
            await self.processor.handle(record)

    async def story(self, rollout: Rollout, outcome: Outcome = Outcome.SUCCEEDED) -> None:
        """A whole rollout of one completion."""
        await self.feed(rollout.started(), rollout.completion(), rollout.finished("4", outcome=outcome))

    @property
    def trajectories(self) -> list[Trajectory]:
        """What was published."""
        return [message for message in self.publisher.published if isinstance(message, Trajectory)]


def counted(name: str, **labels: str) -> float:
    """The value of a counter."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def until(holds: Callable[[], bool]) -> None:
    """Let other tasks run until it holds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what it waits for signals nobody
            await asyncio.sleep(0)


async def test_a_rollout_is_scored_and_published() -> None:
    bench, rollout = Bench(), Rollout()
    await bench.feed(rollout.started(), rollout.completion(response=answer("")), rollout.signal(1.0))
    await bench.feed(rollout.finished("4"))
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert trajectory.status is TrajectoryStatus.SCORED
    assert [(term.name, term.weighted) for term in trajectory.final] == [
        ("reward", 1.0),
        ("signal.thumb", 0.25),
    ]
    assert trajectory.reward == 1.25
    assert trajectory.steps[0].reward == pytest.approx(-0.1)
    assert trajectory.scored_by == "exact_match"
    assert bench.processor.watermark() is None


async def test_the_watermark_stays_at_the_oldest_rollout_that_is_not_published() -> None:
    bench = Bench()
    slow, quick, opened = Rollout(task=SLOW), Rollout(), Rollout()
    await bench.story(slow)
    await bench.story(quick)
    await bench.feed(opened.started())
    await until(lambda: len(bench.trajectories) == 1)
    assert bench.trajectories[0].rollout_id == quick.rollout_id
    assert bench.processor.watermark() == 0

    bench.workers.release.set()
    await bench.processor.drain()
    assert bench.processor.watermark() == 6


@pytest.mark.parametrize("outcome", [Outcome.AGENT_FAILED, Outcome.TIMED_OUT])
async def test_the_agents_failure_is_rewarded_as_such_without_asking_the_function(outcome: Outcome) -> None:
    bench = Bench()
    await bench.story(Rollout(task=SLOW), outcome)
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert [(term.name, term.value) for term in trajectory.final] == [("outcome", -1.0)]
    assert trajectory.status is TrajectoryStatus.SCORED


@pytest.mark.parametrize(
    ("rollout", "outcome", "reason"),
    [
        (Rollout(), Outcome.INFRASTRUCTURE_FAILED, "infrastructure_failed"),
        (Rollout(task=make_task(reward=RewardSpec(name="refusing"))), Outcome.SUCCEEDED, "reward_not_finite"),
        (Rollout(task=make_task(reward=RewardSpec(name="unheard-of"))), Outcome.SUCCEEDED, "reward_unknown"),
        (Rollout(task=make_task(reference=None)), Outcome.SUCCEEDED, "reward_params"),
    ],
)
async def test_what_cannot_be_scored_is_excluded_with_its_reason(
    rollout: Rollout, outcome: Outcome, reason: str
) -> None:
    bench = Bench()
    before = counted("leyden_reward_excluded_total", reason=reason)
    await bench.story(rollout, outcome)
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert trajectory.status is TrajectoryStatus.EXCLUDED
    assert trajectory.excluded_reason == reason
    assert trajectory.final == []
    assert counted("leyden_reward_excluded_total", reason=reason) == before + 1


@pytest.mark.parametrize("output", ['{"\\ud800": 1}', '{"a": "\\udfff"}', '"\\ud83d"'])
async def test_what_an_agent_wrote_as_json_cannot_keep_its_rollout_from_being_written(output: str) -> None:
    """JSON may name half a character; the feedback that quotes it, or the error that does, is text."""
    schema: JsonObject = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 0}}
    bench = Bench()
    bench.workers.grades = {"json_schema": json_schema}
    rollout = Rollout(task=make_task(reward=RewardSpec(name="json_schema", params={"schema": schema})))
    await bench.feed(rollout.started(), rollout.completion(), rollout.finished(output))
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert decode(Topics.TRAJECTORIES, encode(trajectory)).reward == 0.0
    assert trajectory.status is TrajectoryStatus.SCORED


async def test_an_error_that_quotes_half_a_character_excludes_and_is_written() -> None:
    bench = Bench()
    bench.workers.refusal = "ValueError: it said \ud800"
    await bench.story(Rollout(task=make_task(reward=RewardSpec(name="refusing"))))
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert decode(Topics.TRAJECTORIES, encode(trajectory)).error == "ValueError: it said ?"


async def test_evaluations_are_scored_like_training() -> None:
    bench = Bench()
    await bench.story(Rollout(task=make_task(split=Split.EVAL)))
    await bench.processor.drain()
    assert bench.trajectories[0].reward == 1.0


async def test_a_deadline_excludes_and_lets_the_watermark_move() -> None:
    bench = Bench()
    await bench.feed(Rollout(task=make_task(limits=Limits(timeout_s=10, max_attempts=1))).started())
    bench.clock.advance(14.0)
    await bench.processor.tick()
    assert bench.processor.watermark() == 0
    bench.clock.advance(1.0)
    await bench.processor.tick()
    await bench.processor.drain()
    assert bench.trajectories[0].excluded_reason == "deadline"
    assert bench.processor.watermark() is None


async def test_an_outage_of_ours_does_not_exclude_what_the_log_still_holds() -> None:
    """The backlog was written within the rollout's time and is read an hour later."""
    bench, rollout = Bench(), Rollout(task=make_task(limits=Limits(timeout_s=10, max_attempts=1)))
    written = [rollout.started(), rollout.completion(), rollout.finished("4")]
    bench.clock.advance(3600)
    for offset, event in enumerate(written):
        stamp = int((EPOCH + timedelta(seconds=offset)).timestamp() * 1000)
        await bench.processor.handle(Record(PARTITION, offset, b"", encode(event), {}, stamp))
        bench.clock.advance(4)
        await bench.processor.tick()
    await bench.processor.drain()
    assert bench.trajectories[0].status is TrajectoryStatus.SCORED


async def test_publishing_is_tried_until_the_broker_is_back() -> None:
    bench = Bench(FlakyPublisher(PublishFailed("away"), PublishFailed("still away")))
    await bench.story(Rollout())
    assert bench.processor.watermark() == 0
    await bench.processor.drain()
    assert len(bench.trajectories) == 1
    assert bench.processor.watermark() is None


async def test_a_trajectory_too_large_for_the_topic_is_excluded_without_its_steps() -> None:
    bench = Bench(FlakyPublisher(Rejected("too_large", "9 MB")))
    await bench.story(Rollout())
    await bench.processor.drain()
    (trajectory,) = bench.trajectories
    assert (trajectory.excluded_reason, trajectory.steps, trajectory.output) == ("too_large", [], None)


async def test_one_that_is_too_large_even_so_does_not_stop_the_service() -> None:
    bench = Bench(FlakyPublisher(Rejected("too_large", "9 MB"), Rejected("too_large", "9 MB")))
    await bench.story(Rollout())
    await bench.processor.drain()
    assert bench.trajectories == []
    assert bench.processor.watermark() is None


async def test_an_unforeseen_error_excludes_one_rollout_and_no_other() -> None:
    bench = Bench()
    bench.workers.failure = RuntimeError("a bug")
    bench.workers.release.set()
    await bench.story(Rollout(task=SLOW))
    await bench.story(Rollout())
    await bench.processor.drain()
    assert {trajectory.excluded_reason for trajectory in bench.trajectories} == {"scoring_failed", None}


async def test_reading_pauses_while_too_much_is_being_scored() -> None:
    bench = Bench(max_pending=2)
    for _ in range(2):
        await bench.story(Rollout(task=SLOW))
    third = asyncio.create_task(bench.story(Rollout(task=SLOW)))
    await asyncio.wait([third], timeout=0.05)
    assert not third.done()
    bench.workers.release.set()
    await third
    await bench.processor.drain()
    assert len(bench.trajectories) == 3


async def test_a_rollout_of_2000_steps_keeps_no_other_waiting() -> None:
    """Its rules are not done before the other rollout is published, and the loop is free meanwhile."""
    others_published = threading.Event()

    def patient(turns: Sequence[Turn]) -> list[float]:
        assert len(turns) == 1 or others_published.wait(30), "the event loop was held"
        return [1.0] * len(turns)

    rule = Rule("patient", patient, weight=-0.1, at_most=1, per="step", sees="", why="")
    bench, hostile, other = Bench(shaping=Shaping(cap=0.25, rules=[*RULES, rule])), Rollout(), Rollout()
    calls = [hostile.completion(response=answer("", [call(arguments=str(n))])) for n in range(2_000)]
    await bench.feed(hostile.started(), *calls, hostile.finished("4"))
    await bench.story(other)
    await until(lambda: bool(bench.trajectories))
    others_published.set()
    await bench.processor.drain()
    first, last = bench.trajectories
    assert (first.rollout_id, last.rollout_id) == (other.rollout_id, hostile.rollout_id)
    assert len(last.steps) == 2_000
    assert [term.name for term in last.steps[0].terms][-1] == "patient"


async def test_a_rollout_of_few_long_steps_keeps_no_other_waiting_either() -> None:
    hostile = Rollout()
    where: list[str] = []

    def noted(turns: Sequence[Turn]) -> list[float]:
        where.append(threading.current_thread().name)
        return [0.0] * len(turns)

    rule = Rule("noted", noted, weight=0.1, at_most=1, per="step", sees="", why="")
    bench = Bench(shaping=Shaping(cap=0.25, rules=[rule]))
    noise = "".join(random.Random(1).choices(string.ascii_letters, k=500_000))
    await bench.feed(hostile.started(), hostile.completion(response=answer(noise)), hostile.finished("4"))
    await bench.story(Rollout())
    await bench.processor.drain()
    assert sorted(name.startswith("long-rollouts") for name in where) == [False, True]


async def test_closing_drops_what_is_open_and_publishes_nothing_more() -> None:
    bench = Bench()
    before = counted("leyden_reward_open_rollouts"), counted("leyden_reward_pending_scores")
    await bench.story(Rollout(task=SLOW))
    await bench.feed(Rollout().started())
    await bench.processor.close()
    bench.workers.release.set()
    await asyncio.sleep(0)
    assert bench.trajectories == []
    assert (counted("leyden_reward_open_rollouts"), counted("leyden_reward_pending_scores")) == before


async def test_bytes_that_are_no_event_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        await Bench().processor.handle(Record(PARTITION, 0, None, b"\xff not json"))


async def test_a_replay_gives_the_same_trajectory_again() -> None:
    first, second, rollout = Bench(), Bench(), Rollout()
    events: tuple[EventMessage, ...] = (rollout.started(), rollout.completion(), rollout.finished("4"))
    for bench in (first, second):
        await bench.feed(*events)
        await bench.processor.drain()
    assert encode(first.trajectories[0]) == encode(second.trajectories[0])
