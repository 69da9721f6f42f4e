"""The whole learner on a real broker and a real Postgres: from samples to versions, and through crashes.

Samples share one partition, so that an interrupted learner sees them in the order an uninterrupted one did.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from learner_harness import BATCH, DEADLINE_S, World, running, train, until
from safetensors.torch import load_file
from torch import Tensor, equal

from leyden_learner.registry import PolicyMissing
from leyden_learner.versions import ArtifactChanged
from leyden_local.ports import free_ports
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_schemas import Topic, Topics

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    """A world of its own."""
    return make_world()


def weights(world: World, file: str = "model.safetensors") -> dict[str, Tensor]:
    """The newest registered version's weights."""
    artifact = world.registry.registered[-1]["artifact"].removeprefix("file://")
    return load_file(Path(artifact) / file)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


async def test_samples_become_versions(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(2 * BATCH)))
    await train(world, 2)
    registered = world.registry.registered
    assert [(each["parent"], each["step"], each["aliases"]) for each in registered] == [
        (0, 1, ["latest", "serving"]),
        (1, 2, ["latest", "serving"]),
    ]
    assert registered[0]["metrics"]["rollouts"] == BATCH
    first, second = await world.checkpoints()
    assert [first.version, second.version] == [1, 2]
    assert second.digest == registered[1]["digest"]
    assert second.base == world.first.as_uri()
    assert world.count("leyden_learner_rollouts_trained_total") == 2 * BATCH
    assert world.count("leyden_learner_step") == 2
    async with world.repository() as repository:
        rollouts = [world.sample(index).rollout_id for index in range(2 * BATCH)]
        assert await repository.trained_among(rollouts) == set(rollouts)


async def test_a_learner_of_a_replay_trains_on_its_samples_alone_and_moves_nothing_that_is_served(
    world: World,
) -> None:
    name = f"week-{uuid4().hex[:8]}"
    topic = Topic(f"{Topics.SAMPLES.name}.{name}", partitions=1)
    await ensure_topics(world.kafka, [topic])
    live = [world.sample(index) for index in range(BATCH)]
    again = [sample.model_copy(update={"run": name, "reward": 7.0}) for sample in live]
    await world.publish(*live)
    publisher = KafkaPublisher(world.kafka, "tests")
    await publisher.start()
    await publisher.publish(*again, topic=topic.name)
    await publisher.stop()
    await train(world, 1, replay=name)
    (registered,) = world.registry.registered
    assert (registered["run"], registered["aliases"]) == (name, [name])
    assert registered["metrics"]["reward_mean"] == 7.0
    async with world.repository() as repository:
        assert await repository.trained_among([sample.rollout_id for sample in live]) == set()


async def test_a_sample_that_grew_stale_while_waiting_is_dropped(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(BATCH + 1)))
    async with running(world.learner(max_staleness=0)) as task:
        await until(lambda: world.dropped("too_stale") == 1, task)
    assert len(world.registry.registered) == 1


async def test_a_partial_batch_is_trained_when_its_time_is_up(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(2)))
    await train(world, 1, min_rollouts=2, batch_timeout_s=0.2)
    assert world.registry.registered[0]["metrics"]["rollouts"] == 2


async def test_a_learner_goes_on_where_it_stopped(make_world: Callable[[], World]) -> None:
    steady, stopped = make_world(), make_world()
    for world in (steady, stopped):
        await world.publish(*(world.sample(index) for index in range(3 * BATCH + 2)))
    await train(steady, 3)
    for steps in (1, 2, 3):
        await train(stopped, steps)
    assert same(weights(steady), weights(stopped))
    assert stopped.dropped("already_trained") == 0


class Crash(BaseException):
    """Stands for ``kill -9``: no handler may react to it."""


def crash_on_save(learner: Any) -> None:
    """Die after the step is trained, before its checkpoint is written."""

    def die(*_args: object) -> Path:
        raise Crash

    learner._store.write = die


def crash_on_commit(learner: Any) -> None:
    """Die with the checkpoint on disk, before the transaction."""

    async def die(*_args: object) -> None:
        raise Crash

    learner._repository.commit = die


def crash_on_register(learner: Any) -> None:
    """Die with the step committed, before the registry knows."""

    async def die(*_args: object) -> int:
        raise Crash

    learner._registry.register = die


def crash_after_register(learner: Any) -> None:
    """Die with the version registered, before the row says so."""

    async def die(*_args: object) -> None:
        raise Crash

    learner._repository.set_version = die


@pytest.mark.parametrize(
    ("crash", "committed"),
    [(crash_on_save, 1), (crash_on_commit, 1), (crash_on_register, 2), (crash_after_register, 2)],
)
async def test_a_crash_anywhere_in_a_step_ends_in_the_same_weights(
    make_world: Callable[[], World], crash: Callable[[Any], None], committed: int
) -> None:
    steady, crashed = make_world(), make_world()
    for world in (steady, crashed):
        await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
    await train(steady, 3)
    await train(crashed, 1)
    learner = crashed.learner()
    crash(learner)
    with pytest.raises(Crash):
        async with asyncio.timeout(DEADLINE_S):
            await learner.run(asyncio.Event())
    assert len(await crashed.checkpoints()) == committed
    await train(crashed, 3)
    assert same(weights(steady), weights(crashed))
    assert [each.step for each in await crashed.checkpoints()] == [1, 2, 3]
    assert [each["step"] for each in crashed.registry.registered] == [1, 2, 3]
    folder = crashed.folder / "checkpoints" / crashed.policy / "default"
    assert {each for each in folder.iterdir() if each.is_dir()} == {
        each.path for each in await crashed.checkpoints()
    }


async def test_a_registry_away_in_mid_training_loses_nothing(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(2 * BATCH)))
    learner = world.learner(max_steps=2)
    async with running(learner) as task:
        await until(lambda: learner.not_ready() is None, task)
        world.registry.away = True
        await until(lambda: world.registry.asked > 2, task)
        assert "registry" in (learner.not_ready() or "")
        world.registry.away = False
        await until(lambda: len(world.registry.registered) == 2, task)
        await until(lambda: learner.not_ready() is None, task)
    assert world.count("leyden_learner_retries_total", what="registry") > 2


async def test_a_learner_stops_promptly_while_the_registry_is_away(world: World) -> None:
    world.registry.away = True
    learner = world.learner()
    async with running(learner) as task:
        await until(lambda: "first version" in (learner.not_ready() or ""), task)


async def test_a_policy_that_never_appears_is_an_error_in_time(world: World) -> None:
    world.registry.versions.clear()
    with pytest.raises(PolicyMissing):
        async with asyncio.timeout(DEADLINE_S):
            await world.learner(start_timeout_s=0.3).run(asyncio.Event())


async def test_a_second_learner_waits_for_the_first_to_leave(world: World) -> None:
    first, second = world.learner(), world.learner()
    async with running(first) as task:
        await until(lambda: first.not_ready() is None, task)
        async with running(second) as waiting:
            await until(lambda: "another learner" in (second.not_ready() or ""), waiting)
    third = world.learner()
    async with running(third) as task:
        await until(lambda: third.not_ready() is None, task)


async def test_changed_weights_are_not_trained_from(world: World) -> None:
    (world.first / "chat_template.jinja").write_text("something else")
    with pytest.raises(ArtifactChanged, match="restore its files"):
        async with asyncio.timeout(DEADLINE_S):
            await world.learner().run(asyncio.Event())


async def test_training_pauses_after_too_many_unhealthy_steps(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
    learner = world.learner(max_ratio=1.0000001, max_skips=2)
    async with running(learner) as task:
        await until(lambda: "ratio_explosion" in (learner.not_ready() or ""), task)
    assert world.count("leyden_learner_steps_skipped_total", reason="ratio_explosion") == 2
    assert world.count("leyden_learner_paused") == 1
    assert world.dropped("unhealthy_step") == 2 * BATCH
    assert await world.checkpoints() == []


@pytest.mark.parametrize("lr", [1e39, 1e18])
async def test_weights_that_a_step_ruins_are_loaded_again(world: World, lr: float) -> None:
    """The first step makes them, or what they answer, overflow, as does every other; it is never saved."""
    await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
    learner = world.learner(lr=lr, max_skips=2)
    async with running(learner) as task:
        await until(lambda: "non_finite_weights" in (learner.not_ready() or ""), task)
    assert world.count("leyden_learner_steps_skipped_total", reason="non_finite_weights") == 2
    assert await world.checkpoints() == []
    assert world.registry.registered == []


@asynccontextmanager
async def process(world: World, registry_port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The learner as its own process; killed in the end."""
    environment = os.environ | {
        "LEYDEN_KAFKA_BOOTSTRAP": world.kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(world.kafka.idempotent),
        "LEYDEN_DATABASE_URL": world.database.url.get_secret_value(),
        "LEYDEN_OPS_PORT": "0",
        "LEYDEN_LEARNER_POLICY": world.policy,
        "LEYDEN_LEARNER_REGISTRY_URL": f"http://127.0.0.1:{registry_port}",
        "LEYDEN_LEARNER_CHECKPOINT_DIR": str(world.folder / "checkpoints"),
        "LEYDEN_LEARNER_BATCH_ROLLOUTS": str(BATCH),
        "LEYDEN_LEARNER_MIN_ROLLOUTS": "1",
        "LEYDEN_LEARNER_MAX_STALENESS": "100",
        "LEYDEN_LEARNER_LR": "1e-2",
        "LEYDEN_LEARNER_THREADS": "1",
        "LEYDEN_LEARNER_DEVICE": "cpu",
    }
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "leyden_learner", env=environment)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.mark.timeout(300)
async def test_kill_9_of_the_process_ends_in_the_same_weights(make_world: Callable[[], World]) -> None:
    steady, killed = make_world(), make_world()
    steps = 8
    for world in (steady, killed):
        await world.publish(*(world.sample(index) for index in range(steps * BATCH)))
    await train(steady, steps)
    (port,) = free_ports(1)
    server = HttpServer("registry", killed.registry.app, "127.0.0.1", port)
    stop = asyncio.Event()
    serving = asyncio.create_task(server.run(stop))
    for wanted in (3, steps):
        async with process(killed, port) as child, asyncio.timeout(2 * DEADLINE_S):
            while len(killed.registry.registered) < wanted:
                assert child.returncode is None
                await asyncio.sleep(0.005)
            child.send_signal(signal.SIGKILL if wanted < steps else signal.SIGTERM)
            assert await child.wait() == (-signal.SIGKILL if wanted < steps else 0)
    stop.set()
    await serving
    assert [each["step"] for each in killed.registry.registered] == list(range(1, steps + 1))
    assert same(weights(steady), weights(killed))
