"""The reward service on a real broker: events in, trajectories out, whatever user code or a crash does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from member_harness import Member, letters_of, of_rollouts

from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import CatalogueSettings, KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_task
from leyden_reward.app import build, processors
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.settings import RewardSettings
from leyden_schemas import (
    EventMessage,
    Message,
    RewardSpec,
    Topic,
    Topics,
    Trajectory,
    TrajectoryStatus,
    encode,
)

pytestmark = pytest.mark.kafka
USER_CODE = """
import math, os, time

def right(trajectory):
    return {"right": float(trajectory.output == trajectory.task.reference), "short": 0.1}

def raises(trajectory):
    raise ValueError("no idea")

def hangs(trajectory):
    while True:
        time.sleep(1)

def nan(trajectory):
    return math.nan

def dies(trajectory):
    os._exit(7)
"""


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher; the topics exist."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def events(kafka: KafkaSettings) -> str:
    """A topic of events that no other test writes to."""
    topic = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=3)
    await ensure_topics(kafka, [topic])
    return topic.name


@pytest.fixture
def catalogue(tmp_path: Path) -> CatalogueSettings:
    """User rewards, good and bad."""
    (tmp_path / "integration_rewards.py").write_text(USER_CODE)
    names = ("right", "raises", "hangs", "nan", "dies")
    return CatalogueSettings(path=[str(tmp_path)], rewards={n: f"integration_rewards:{n}" for n in names})


def service(
    settings: RewardSettings, topic: str, publisher: KafkaPublisher, workers: RewardWorkers
) -> Member:
    """A member of the reward group."""
    factory = processors(settings, workers, publisher, SystemClock())
    return Member(settings.kafka, settings.group, topic, publisher, factory)


@asynccontextmanager
async def workers_of(settings: RewardSettings) -> AsyncIterator[RewardWorkers]:
    """Running workers."""
    workers = RewardWorkers(settings.catalogue, count=settings.workers, deadline_s=settings.deadline_s)
    await workers.start()
    try:
        yield workers
    finally:
        await workers.stop()


async def trajectories(kafka: KafkaSettings, wanted: set[UUID]) -> list[Trajectory]:
    """Everything published about these rollouts, once each of them has appeared."""
    return await of_rollouts(kafka, Topics.TRAJECTORIES, wanted)


def told(rollout: Rollout) -> list[EventMessage]:
    """A whole rollout of two completions."""
    return [rollout.started(), rollout.completion(), rollout.completion(), rollout.finished("4")]


async def test_user_code_that_misbehaves_excludes_its_own_rollouts_and_no_other(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str, catalogue: CatalogueSettings
) -> None:
    settings = RewardSettings(kafka=kafka, catalogue=catalogue, group=uuid4().hex, deadline_s=2.0, workers=2)
    names = ["right", "hangs", "raises", "nan", "dies", "unknown", "exact_match"] * 2
    rollouts = {
        name + str(i): Rollout(task=make_task(reward=RewardSpec(name=name))) for i, name in enumerate(names)
    }
    for rollout in rollouts.values():
        await publisher.publish(*told(rollout), topic=events)
    async with workers_of(settings) as workers:
        reward = service(settings, events, publisher, workers)
        found = await trajectories(kafka, {rollout.rollout_id for rollout in rollouts.values()})
        await reward.leave()
    by_id = {trajectory.rollout_id: trajectory for trajectory in found}
    outcome = {
        name: by_id[rollout.rollout_id].excluded_reason or by_id[rollout.rollout_id].reward
        for name, rollout in rollouts.items()
    }
    expected = {
        "right": 1.1,
        "hangs": "reward_timed_out",
        "raises": "reward_raised",
        "nan": "reward_not_finite",
        "dies": "reward_exited",
        "unknown": "reward_unknown",
        "exact_match": 1.0,
    }
    assert outcome == {name: expected[name.rstrip("0123456789")] for name in rollouts}
    assert all(len(trajectory.steps) == 2 for trajectory in found)


async def test_a_crash_loses_nothing_and_repeats_the_same_trajectories(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    settings = RewardSettings(kafka=kafka, group=uuid4().hex)
    rollouts = [Rollout() for _ in range(30)]
    stories = [told(rollout) for rollout in rollouts]
    for story in stories:
        await publisher.publish(*story[:2], topic=events)
    early = set(range(0, 30, 3))
    for index in early:
        await publisher.publish(*stories[index][2:], topic=events)
    async with workers_of(settings) as workers:
        first = service(settings, events, publisher, workers)
        before = await trajectories(kafka, {rollouts[index].rollout_id for index in early})
        await first.crash()
        for index, story in enumerate(stories):
            if index not in early:
                await publisher.publish(*story[2:], topic=events)
        second = service(settings, events, publisher, workers)
        everything = await trajectories(kafka, {rollout.rollout_id for rollout in rollouts})
        await second.leave()
    assert len(before) == len(early)
    by_id: dict[UUID, set[bytes]] = {}
    for trajectory in everything:
        by_id.setdefault(trajectory.trajectory_id, set()).add(encode(trajectory))
    assert len(by_id) == len(rollouts)
    assert all(len(versions) == 1 for versions in by_id.values())
    assert all(t.status is TrajectoryStatus.SCORED and len(t.steps) == 2 for t in everything)


async def test_after_a_clean_stop_nothing_is_repeated(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    settings = RewardSettings(kafka=kafka, group=uuid4().hex)
    done, later = Rollout(), Rollout()
    await publisher.publish(*told(done), topic=events)
    async with workers_of(settings) as workers:
        first = service(settings, events, publisher, workers)
        await trajectories(kafka, {done.rollout_id})
        await first.leave()
        second = service(settings, events, publisher, workers)
        await publisher.publish(*told(later), topic=events)
        found = await trajectories(kafka, {done.rollout_id, later.rollout_id})
        await second.leave()
    assert len(found) == 2


async def test_bytes_that_are_no_event_go_to_the_dead_letters(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    settings = RewardSettings(kafka=kafka, group=uuid4().hex)
    rollout = Rollout()
    key = str(rollout.rollout_id).encode()
    started, *rest = told(rollout)
    await publisher.publish(started, topic=events)
    await publisher.publish_raw(events, key, b"\xff\xfe not json")
    await publisher.publish_raw(events, key, b'{"type": "rollout_finished", "attempt": 0}')
    await publisher.publish(*rest, topic=events)
    async with workers_of(settings) as workers:
        reward = service(settings, events, publisher, workers)
        (trajectory,) = await trajectories(kafka, {rollout.rollout_id})
        await reward.leave()
    assert trajectory.reward == 1.0
    found = await letters_of(kafka, events, 2)
    assert {letter.reason for letter in found} == {"malformed"}
    assert b"\xff\xfe not json" in {letter.value for letter in found}
    assert any("attempt" in letter.error for letter in found)


async def test_the_composed_service_works_and_stops(kafka: KafkaSettings, publisher: KafkaPublisher) -> None:
    settings = RewardSettings(kafka=kafka, group=uuid4().hex)
    components = await build(settings)
    stop = asyncio.Event()
    running = [asyncio.create_task(component.run(stop)) for component in components]
    rollout = Rollout()
    messages: list[Message] = list(told(rollout))
    await publisher.publish(*messages)
    (trajectory,) = await trajectories(kafka, {rollout.rollout_id})
    assert [component.not_ready() for component in components] == [None] * 4
    stop.set()
    await asyncio.gather(*running)
    assert trajectory.reward == 1.0
