"""What a learner needs goes away in mid-training: it says what it waits for, goes on, and loses nothing."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from learner_harness import BATCH, DEADLINE_S, World, running, until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leyden_learner.app import build_learner
from leyden_learner.testing import make_sample
from leyden_local.ports import free_ports

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
TEN_MINUTES_S = 600.0


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    """A world of its own."""
    return make_world()


async def all_trained(world: World, count: int) -> bool:
    """Whether these rollouts, and no others, were trained on, each once."""
    ids = {make_sample(index).rollout_id for index in range(count)}
    async with world.repository() as repository:
        return (
            await repository.trained_among(ids) == ids
            and world.count("leyden_learner_rollouts_trained_total") == count
        )


async def test_a_registry_that_is_down_for_ten_minutes_costs_ten_minutes_and_nothing_else(
    world: World,
) -> None:
    await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
    learner: Any = world.learner(max_steps=3)
    waited: list[float] = []

    async def wait(stop: asyncio.Event, seconds: float) -> bool:
        """Time passes, but not ours."""
        waited.append(seconds)
        world.registry.away = sum(waited) < TEN_MINUTES_S
        assert "registry" in (learner.not_ready() or "")
        await asyncio.sleep(0)
        return stop.is_set()

    async with running(learner) as task:
        await until(lambda: learner.not_ready() is None, task)
        learner._patience.wait = wait
        world.registry.away = True
        await until(lambda: len(world.registry.registered) == 3, task)
        assert learner.not_ready() is None
    assert sum(waited) >= TEN_MINUTES_S
    assert max(waited) <= 10.0
    assert len(waited) < 100
    assert world.count("leyden_learner_retries_total", what="registry") == len(waited)
    assert [each["step"] for each in world.registry.registered] == [1, 2, 3]
    assert await all_trained(world, 3 * BATCH)


@asynccontextmanager
async def registry(world: World, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A registry process on a port, ready; killed in the end."""
    (ops_port,) = free_ports(1)
    environment = os.environ | {
        "LEYDEN_DATABASE_URL": world.database.url.get_secret_value(),
        "LEYDEN_KAFKA_BOOTSTRAP": world.kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(world.kafka.idempotent),
        "LEYDEN_OPS_PORT": str(ops_port),
        "LEYDEN_REGISTRY_PORT": str(port),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "leyden_registry", env=environment, stderr=DEVNULL
    )
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(DEADLINE_S):
            while True:
                assert child.returncode is None, "the registry ended"
                with suppress(httpx.TransportError):
                    if (await http.get(f"http://127.0.0.1:{ops_port}/readyz")).is_success:
                        break
                await asyncio.sleep(0.05)
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.mark.timeout(300)
async def test_a_registry_process_that_is_killed_and_comes_back_has_every_version_once(world: World) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    first = {"version_id": str(uuid4()), "artifact": world.first.as_uri(), "aliases": ["latest"]}
    versions = f"{url}/v1/policies/{world.policy}/versions"
    learner = build_learner(world.settings(registry_url=url, max_steps=3, registry_timeout_s=5.0))
    async with httpx.AsyncClient() as http, registry(world, port) as process:
        assert (await http.post(versions, json=first)).status_code == 201
        async with running(learner) as task:
            await until(lambda: learner.not_ready() is None, task)
            process.kill()
            await process.wait()
            await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
            await until(lambda: "registry" in (learner.not_ready() or ""), task)
            async with registry(world, port):
                await until(lambda: world.count("leyden_learner_step") == 3, task)
                await until(lambda: learner.not_ready() is None, task)
                known = [(await http.get(f"{versions}/{number}")).json() for number in (1, 2, 3)]
                assert (await http.get(f"{versions}/4")).status_code == 404
    assert [(each["parent"], each["step"]) for each in known] == [(0, 1), (1, 2), (2, 3)]
    assert world.count("leyden_learner_retries_total", what="registry") >= 1
    assert await all_trained(world, 3 * BATCH)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own that can be full."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


async def test_a_full_disk_holds_the_step_in_hand_until_there_is_room_again(world: World) -> None:
    await world.publish(*(world.sample(index) for index in range(2 * BATCH)))
    with small_disk(world.folder / "disk", "4m") as disk:
        learner = world.learner(max_steps=2, checkpoint_dir=disk / "checkpoints")
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        async with running(learner) as task:
            ballast_size = ballast.stat().st_size
            await until(lambda: "No space left" in (learner.not_ready() or ""), task)
            assert "cannot write a checkpoint" in (learner.not_ready() or "")
            folder = disk / "checkpoints" / world.policy / "default"
            assert [
                each for each in folder.iterdir() if each.is_dir() and "unfinished" not in each.name
            ] == []
            assert await world.checkpoints() == []
            ballast.unlink()
            await until(lambda: len(world.registry.registered) == 2, task)
            assert learner.not_ready() is None
        assert ballast_size > 3 * 1024**2
        kept = {each.path for each in await world.checkpoints()}
        assert {each for each in folder.iterdir() if each.is_dir()} == kept
    assert world.count("leyden_learner_retries_total", what="checkpoint") >= 1
    assert await all_trained(world, 2 * BATCH)


def registered(world: World, count: int) -> bool:
    """Whether so many versions are."""
    return len(world.registry.registered) == count


async def test_sinks_follow_a_run_through_a_restart_and_one_that_is_away_holds_up_nothing(
    world: World,
) -> None:
    (nobody,) = free_ports(1)
    folder = world.folder / "tb"
    sinks = {
        "sinks": ["tensorboard", "mlflow"],
        "tensorboard_dir": folder,
        "mlflow_uri": f"http://127.0.0.1:{nobody}",
    }
    await world.publish(*(world.sample(index) for index in range(3 * BATCH)))
    for steps in (2, 3):
        learner = world.learner(max_steps=steps, **sinks)
        async with running(learner) as task:
            await until(partial(registered, world, steps), task)
    events = EventAccumulator(str(folder / world.policy / "default")).Reload()
    assert [each.step for each in events.Scalars("reward_mean")] == [1, 2, 3]
    assert {"entropy", "grad_norm", "train_seconds", "checkpoint_seconds"} <= {*events.Tags()["scalars"]}
    assert world.count("leyden_learner_sink_points_total", sink="tensorboard", result="written") == 4
    assert world.count("leyden_learner_sink_points_total", sink="mlflow", result="written") == 0
