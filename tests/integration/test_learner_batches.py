"""What a running learner makes of its samples: groups, token budgets, turns of queues; also with crashes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from learner_harness import BATCH, World, train, worlds

from leyden_learner.testing import make_row, make_sample, make_span
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import TrainingSample

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


@pytest.fixture
async def make_world(
    kafka: KafkaSettings, postgres_url: str, database: DatabaseSettings, tmp_path: Path
) -> Callable[[], World]:
    """Worlds of this test."""
    return await worlds(kafka, database, tmp_path)


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    """A world of its own."""
    return make_world()


def of_group(world: World, group: int, index: int, size: int) -> TrainingSample:
    """Rollout ``index`` of a group, which its reward names."""
    group_id = make_sample(1000 + group).rollout_id
    return world.sample(10 * group + index, group_id=group_id, group_samples=size, reward=float(group))


async def test_groups_train_together_wherever_their_samples_lie(world: World) -> None:
    interleaved = [of_group(world, group, index, 3) for index in range(3) for group in range(4)]
    await world.publish(*interleaved)
    await train(world, 2, batch_rollouts=None, batch_groups=2, batch_timeout_s=600.0)
    means = [each["metrics"]["reward_mean"] for each in world.registry.registered]
    assert means == [0.5, 2.5]
    assert [each["metrics"]["rollouts"] for each in world.registry.registered] == [6, 6]


async def test_a_group_that_lost_a_rollout_on_the_way_is_trained_all_the_same(world: World) -> None:
    spoilt = of_group(world, 0, 2, 3).model_copy(update={"rows": [make_row([1, 99], make_span(1, [-1.0]))]})
    await world.publish(of_group(world, 0, 0, 3), of_group(world, 0, 1, 3), spoilt)
    await train(world, 1, batch_rollouts=None, batch_groups=1, batch_timeout_s=600.0)
    assert world.registry.registered[0]["metrics"]["rollouts"] == 2
    assert world.dropped("token_out_of_vocabulary") == 1


async def test_an_incomplete_group_is_trained_when_its_time_is_up(world: World) -> None:
    await world.publish(*(of_group(world, 0, index, 5) for index in range(2)))
    await train(world, 1, batch_rollouts=None, batch_groups=3, batch_timeout_s=0.3)
    assert world.registry.registered[0]["metrics"]["rollouts"] == 2


async def test_a_token_budget_makes_a_step(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(7)))
    await train(world, 2, batch_rollouts=None, batch_tokens=10, batch_timeout_s=600.0)
    # A sample has three sampled tokens.
    assert [each["metrics"]["sampled_tokens"] for each in world.registry.registered] == [9, 9]


async def test_a_queue_that_floods_the_log_does_not_starve_another(world: World) -> None:
    flood = [world.sample(index, queue="flood", reward=0.0) for index in range(40)]
    small = [world.sample(index, queue="small", reward=1.0) for index in range(40, 42)]
    await world.publish(*flood, *small)
    # In the order of the log the small queue would be in the eleventh step.
    await train(world, 4, max_buffered_rollouts=BATCH)
    assert sum(each["metrics"]["reward_mean"] for each in world.registry.registered) * BATCH == 2
    backlog = [world.count("leyden_learner_backlog_rollouts", queue=each) for each in ("flood", "small")]
    assert backlog == [26, 0]


async def test_a_flood_that_was_left_on_the_log_is_trained_in_order_and_through_crashes(
    make_world: Callable[[], World],
) -> None:
    world = make_world()
    rollouts = 10 * BATCH
    await world.publish(*(world.sample(index, queue="flood") for index in range(rollouts - 2)))
    await world.publish(*(world.sample(index, queue="small") for index in range(rollouts - 2, rollouts)))
    for steps in (1, 4, 5, 10):
        await train(world, steps, max_buffered_rollouts=BATCH)
    assert world.count("leyden_learner_rollouts_trained_total") == rollouts
    assert world.dropped("duplicate") == 0
    async with world.repository() as repository:
        ids = {make_sample(index).rollout_id for index in range(rollouts)}
        assert await repository.trained_among(ids) == ids
