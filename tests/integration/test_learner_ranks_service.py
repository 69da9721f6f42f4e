"""The service with several ranks, as processes: killed, with a rank killed, and gone on with by one alone."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psutil
import pytest
from learner_harness import BATCH, DEADLINE_S, World, train
from safetensors.torch import load_file
from torch import allclose

from leyden_local.ports import free_ports
from leyden_platform.http import HttpServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(400)]


@asynccontextmanager
async def service(world: World, port: int, ranks: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """The learner as a process with this many ranks; killed in the end."""
    environment = {
        "LEYDEN_KAFKA_BOOTSTRAP": world.kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(world.kafka.idempotent),
        "LEYDEN_DATABASE_URL": world.database.url.get_secret_value(),
        "LEYDEN_OPS_PORT": "0",
        "LEYDEN_LEARNER_POLICY": world.policy,
        "LEYDEN_LEARNER_REGISTRY_URL": f"http://127.0.0.1:{port}",
        "LEYDEN_LEARNER_CHECKPOINT_DIR": str(world.folder / "checkpoints"),
        "LEYDEN_LEARNER_BATCH_ROLLOUTS": str(BATCH),
        "LEYDEN_LEARNER_MIN_ROLLOUTS": str(BATCH),
        "LEYDEN_LEARNER_MAX_STALENESS": "100",
        "LEYDEN_LEARNER_LR": "1e-2",
        "LEYDEN_LEARNER_THREADS": "1",
        "LEYDEN_LEARNER_DEVICE": "cpu",
        "LEYDEN_LEARNER_DATA_PARALLEL": str(ranks),
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "leyden_learner", env=os.environ | environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def registered(world: World, count: int, child: asyncio.subprocess.Process) -> list[psutil.Process]:
    """Wait for so many versions; the processes that trained them."""
    async with asyncio.timeout(2 * DEADLINE_S):
        while len(world.registry.registered) < count:
            assert child.returncode is None
            await asyncio.sleep(0.02)
    return psutil.Process(child.pid).children(recursive=True)


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until they have all ended."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
                return
            await asyncio.sleep(0.02)


async def test_killed_and_gone_on_with(make_world: Callable[[], World]) -> None:
    steady, world = make_world(), make_world()
    for each in (steady, world):
        await each.publish(*(each.sample(index) for index in range(4 * BATCH)))
    (port,) = free_ports(1)
    stop = asyncio.Event()
    serving = asyncio.create_task(HttpServer("registry", world.registry.app, "127.0.0.1", port).run(stop))
    async with service(world, port, 2) as child:
        ranks = await registered(world, 2, child)
        assert len(ranks) == 2
        child.send_signal(signal.SIGKILL)
        await gone(ranks)
    async with service(world, port, 2) as child:
        ranks = await registered(world, 4, child)
        lost = next(rank for rank in ranks if rank.environ()["LOCAL_RANK"] == "1")
        lost.kill()  # while nothing is trained
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await child.communicate()
        assert child.returncode == 1
        assert f"rank 1 (process {lost.pid}) was killed by SIGKILL" in errors.decode()
        await gone(ranks)
    for each in (steady, world):
        await each.publish(*(each.sample(index) for index in range(4 * BATCH, 5 * BATCH)))
    async with service(world, port, 1) as child:
        assert await registered(world, 5, child) == []
        child.send_signal(signal.SIGTERM)
        await child.communicate()
        assert child.returncode == 0
    stop.set()
    await serving
    await train(steady, 5)
    assert [each["step"] for each in world.registry.registered] == [1, 2, 3, 4, 5]
    newest = [(await each.checkpoints())[-1].path for each in (world, steady)]
    one, other = (load_file(folder / "model.safetensors") for folder in newest)
    assert one.keys() == other.keys()
    assert all(allclose(value, other[name], atol=1e-4) for name, value in one.items())
