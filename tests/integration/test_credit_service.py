"""The credit service on a real broker: trajectories in, samples out, and the whole way from events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import UUID, uuid4

import pytest

from leyden_credit.app import build, processors
from leyden_credit.settings import CreditSettings
from leyden_platform.clock import SystemClock
from leyden_platform.messaging import (
    ConsumerGroup,
    KafkaPublisher,
    LogReader,
    Partition,
    Processor,
    Record,
    ensure_topics,
)
from leyden_platform.service import Component
from leyden_platform.settings import KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_step, make_task, make_trajectory
from leyden_reward.app import build as build_reward
from leyden_reward.settings import RewardSettings
from leyden_schemas import DeadLetter, Topic, Topics, TrainingSample, Trajectory, cause_id, encode

pytestmark = pytest.mark.kafka
DEADLINE_S = 60.0


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher; the topics exist."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def trajectories(kafka: KafkaSettings) -> str:
    """A topic of trajectories that no other test writes to."""
    topic = Topic(f"{Topics.TRAJECTORIES.name}.{uuid4().hex}", partitions=2)
    await ensure_topics(kafka, [topic])
    return topic.name


class Service:
    """A member of the credit group."""

    def __init__(self, settings: CreditSettings, topic: str, publisher: KafkaPublisher) -> None:
        self.processors: list[Processor] = []
        self._make = processors(settings, publisher, SystemClock())
        self.stop = asyncio.Event()
        self.consumer = ConsumerGroup(
            settings.kafka,
            topics=[topic],
            group=settings.group,
            factory=self._factory,
            publisher=publisher,
            tick_s=0.1,
        )
        self.task = asyncio.create_task(self.consumer.run(self.stop))

    def _factory(self, partition: Partition) -> Processor:
        self.processors.append(self._make(partition))
        return self.processors[-1]

    async def crash(self) -> None:
        """End at once: nothing more is published or committed."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def leave(self) -> None:
        """Drain and stop."""
        self.stop.set()
        await self.task


async def read_until(
    kafka: KafkaSettings, topic: Topic, done: Callable[[Sequence[Record]], bool]
) -> list[Record]:
    """Records of a topic from its beginning until ``done``."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic.name) as reader:
        while not done(records):
            records += await reader.poll(timeout_s=0.2)
    return records


async def samples(kafka: KafkaSettings, wanted: set[UUID]) -> list[TrainingSample]:
    """Everything published about these rollouts, once each of them has appeared."""

    def mine(records: Sequence[Record]) -> list[TrainingSample]:
        found: list[TrainingSample] = [record.message() for record in records]
        return [sample for sample in found if sample.rollout_id in wanted]

    records = await read_until(
        kafka, Topics.SAMPLES, lambda seen: {s.rollout_id for s in mine(seen)} >= wanted
    )
    return mine(records)


def group(*rewards: float) -> list[Trajectory]:
    """All trajectories of a new task."""
    task, group_id = make_task(samples=len(rewards)), cause_id("group", uuid4())
    return [
        make_trajectory(
            reward,
            [make_step([1, 2], [3], air=0.1), make_step([1, 2, 3, 4], [5])],
            task=task,
            group_id=group_id,
            index=index,
        )
        for index, reward in enumerate(rewards)
    ]


def ids(trajectories: Sequence[Trajectory]) -> set[UUID]:
    """Their rollouts."""
    return {trajectory.rollout_id for trajectory in trajectories}


async def test_a_crash_loses_nothing_and_repeats_the_same_samples(
    kafka: KafkaSettings, publisher: KafkaPublisher, trajectories: str
) -> None:
    settings = CreditSettings(kafka=kafka, group=uuid4().hex, estimator="return_to_go")
    groups = [group(1.0, 0.0, 0.5, 1.0) for _ in range(12)]
    early, rest = groups[::3], [members for index, members in enumerate(groups) if index % 3]
    for members in groups:
        await publisher.publish(*members[:2], topic=trajectories)
    for members in early:
        await publisher.publish(*members[2:], topic=trajectories)
    first = Service(settings, trajectories, publisher)
    before = await samples(kafka, set().union(*map(ids, early)))
    await first.crash()
    for members in rest:
        await publisher.publish(*members[2:], topic=trajectories)
    second = Service(settings, trajectories, publisher)
    everything = await samples(kafka, set().union(*map(ids, groups)))
    await second.leave()

    assert len(before) == 16
    by_id: dict[UUID, set[bytes]] = {}
    for sample in everything:
        by_id.setdefault(sample.sample_id, set()).add(encode(sample))
    assert len(by_id) == 48
    assert all(len(versions) == 1 for versions in by_id.values())


async def test_bytes_that_are_no_trajectory_go_to_the_dead_letters(
    kafka: KafkaSettings, publisher: KafkaPublisher, trajectories: str
) -> None:
    settings = CreditSettings(kafka=kafka, group=uuid4().hex)
    one, two = group(1.0, 0.0)
    await publisher.publish(one, topic=trajectories)
    await publisher.publish_raw(trajectories, one.key().encode(), b"[1, 2")
    await publisher.publish(two, topic=trajectories)
    service = Service(settings, trajectories, publisher)
    found = await samples(kafka, ids([one, two]))
    await service.leave()
    assert {sample.group_size for sample in found} == {2}

    def letters(records: Sequence[Record]) -> list[DeadLetter]:
        return [letter for r in records if (letter := r.message()).source_topic == trajectories]

    (letter,) = letters(await read_until(kafka, Topics.DEADLETTERS, lambda seen: len(letters(seen)) >= 1))
    assert (letter.value, letter.reason) == (b"[1, 2", "malformed")


async def test_events_become_samples_through_both_services(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    reward = await build_reward(RewardSettings(kafka=kafka, group=uuid4().hex))
    credit = await build(CreditSettings(kafka=kafka, group=uuid4().hex))
    components: list[Component] = [*reward, *credit]
    stop = asyncio.Event()
    running = [asyncio.create_task(component.run(stop)) for component in components]
    task, group_id = make_task(samples=2), uuid4()
    right, wrong = (Rollout(task=task, group_id=group_id, index=index) for index in range(2))
    for rollout, output in ((right, "4"), (wrong, "5")):
        await publisher.publish(
            rollout.started(),
            rollout.completion(),
            rollout.completion(prompt_token_ids=[1, 2, 3, 4, 7], token_ids=[8], logprobs=[-0.3]),
            rollout.finished(output),
        )
    found = await samples(kafka, {right.rollout_id, wrong.rollout_id})
    stop.set()
    await asyncio.gather(*running)

    by_id = {sample.rollout_id: sample for sample in found}
    good, bad = by_id[right.rollout_id], by_id[wrong.rollout_id]
    assert (good.reward, bad.reward) == (1.0, 0.0)
    (row,) = good.rows
    assert row.token_ids == [1, 2, 3, 4, 7, 8]
    assert [(span.start, span.stop, span.version) for span in row.spans] == [(2, 4, 3), (5, 6, 3)]
    assert all(span.advantage > 0 for span in row.spans)
    assert all(span.advantage < 0 for row in bad.rows for span in row.spans)
