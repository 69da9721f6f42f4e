"""The credit service on a real broker: trajectories in, samples out, and the whole way from events."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest
from counters import Growth
from member_harness import Member, letters_of, of_rollouts

from leyden_credit.app import build, processors
from leyden_credit.estimators import known
from leyden_credit.settings import CreditSettings
from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.service import Component
from leyden_platform.settings import CatalogueSettings, KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_step, make_task, make_trajectory
from leyden_reward.app import build as build_reward
from leyden_reward.app import processors as reward_processors
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.settings import RewardSettings
from leyden_schemas import Topic, Topics, TrainingSample, Trajectory, cause_id, encode

pytestmark = pytest.mark.kafka


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


def service(settings: CreditSettings, topic: str, publisher: KafkaPublisher) -> Member:
    """A member of the credit group."""
    factory = processors(settings, publisher, SystemClock())
    return Member(settings.kafka, settings.group, topic, publisher, factory)


async def samples(kafka: KafkaSettings, wanted: set[UUID]) -> list[TrainingSample]:
    """Everything published about these rollouts, once each of them has appeared."""
    return await of_rollouts(kafka, Topics.SAMPLES, wanted)


def group(*rewards: float, policy: str = "calculator") -> list[Trajectory]:
    """All trajectories of a new task."""
    task, group_id = make_task(samples=len(rewards), policy=policy), cause_id("group", uuid4())
    told = {"messages": [{"role": "user", "content": "2 + 2"}]}
    return [
        make_trajectory(
            reward,
            [
                make_step([1, 2], [3], air=0.1, policy=policy, request=told),
                make_step([1, 2, 3, 4], [5], policy=policy, agent="checker"),
            ],
            task=task,
            group_id=group_id,
            index=index,
        )
        for index, reward in enumerate(rewards)
    ]


def ids(trajectories: Sequence[Trajectory]) -> set[UUID]:
    """Their rollouts."""
    return {trajectory.rollout_id for trajectory in trajectories}


async def test_a_crash_loses_nothing_and_repeats_the_same_samples_whatever_the_estimator(
    kafka: KafkaSettings, publisher: KafkaPublisher, trajectories: str
) -> None:
    names = list(known())
    settings = CreditSettings(kafka=kafka, group=uuid4().hex, estimators={name: name for name in names})
    groups = [group(1.0, 0.0, 0.5, 1.0, policy=names[index % len(names)]) for index in range(12)]
    early, rest = groups[::3], [members for index, members in enumerate(groups) if index % 3]
    for members in groups:
        await publisher.publish(*members[:2], topic=trajectories)
    for members in early:
        await publisher.publish(*members[2:], topic=trajectories)
    first = service(settings, trajectories, publisher)
    before = await samples(kafka, set().union(*map(ids, early)))
    await first.crash()
    for members in rest:
        await publisher.publish(*members[2:], topic=trajectories)
    second = service(settings, trajectories, publisher)
    everything = await samples(kafka, set().union(*map(ids, groups)))
    await second.leave()

    assert len(before) == 16
    by_id: dict[UUID, set[bytes]] = {}
    for sample in everything:
        by_id.setdefault(sample.sample_id, set()).add(encode(sample))
    assert len(by_id) == 48
    assert {sample.estimator for sample in everything} == set(names)
    assert all(sample.estimator == sample.policy for sample in everything)
    assert all(len(versions) == 1 for versions in by_id.values())


async def test_bytes_that_are_no_trajectory_go_to_the_dead_letters(
    kafka: KafkaSettings, publisher: KafkaPublisher, trajectories: str
) -> None:
    settings = CreditSettings(kafka=kafka, group=uuid4().hex)
    one, two = group(1.0, 0.0)
    await publisher.publish(one, topic=trajectories)
    await publisher.publish_raw(trajectories, one.key().encode(), b"[1, 2")
    await publisher.publish(two, topic=trajectories)
    credit = service(settings, trajectories, publisher)
    found = await samples(kafka, ids([one, two]))
    await credit.leave()
    assert {sample.group_size for sample in found} == {2}
    (letter,) = await letters_of(kafka, trajectories, 1)
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


async def test_an_agent_that_never_calls_the_model_is_scored_and_its_group_goes_on(
    kafka: KafkaSettings, publisher: KafkaPublisher, trajectories: str
) -> None:
    events = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=1)
    await ensure_topics(kafka, [events])
    task, group_id = make_task(samples=3), cause_id("group", uuid4())
    right, wrong, silent = (Rollout(task=task, group_id=group_id, index=index) for index in range(3))
    for rollout, output in ((right, "4"), (wrong, "5")):
        await publisher.publish(
            rollout.started(), rollout.completion(), rollout.finished(output), topic=events.name
        )
    await publisher.publish(silent.started(), silent.finished("4"), topic=events.name)

    workers = RewardWorkers(CatalogueSettings(), count=0)
    scores = reward_processors(RewardSettings(kafka=kafka), workers, publisher, SystemClock())
    reward = Member(kafka, uuid4().hex, events.name, publisher, scores)
    scored = await of_rollouts(
        kafka, Topics.TRAJECTORIES, {rollout.rollout_id for rollout in (right, wrong, silent)}
    )
    await reward.leave()
    (unused,) = (trajectory for trajectory in scored if trajectory.rollout_id == silent.rollout_id)
    assert (unused.outcome, unused.status, unused.reward, unused.steps) == ("succeeded", "scored", 1.0, [])

    dropped = Growth("leyden_credit_rollouts_dropped_total", "reason")
    groups = Growth("leyden_credit_groups_total", "closed")
    await publisher.publish(*scored, topic=trajectories)
    credit = service(CreditSettings(kafka=kafka, group=uuid4().hex), trajectories, publisher)
    found = await samples(kafka, {right.rollout_id, wrong.rollout_id})
    await credit.leave()
    assert {sample.rollout_id for sample in found} == {right.rollout_id, wrong.rollout_id}
    assert (dropped(), groups()) == ({"no_rows": 1.0}, {"complete": 1.0})
