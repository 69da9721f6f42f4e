"""Several gateway processes that share a port: all serve, they end together, and none outlives its parent."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryFile

import httpx
import psutil
import pytest
from vllm_stub import eventually

from leyden_local.ports import free_ports
from leyden_platform.messaging import ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topics

pytestmark = pytest.mark.kafka
DEADLINE_S = 60.0


@asynccontextmanager
async def two_processes(kafka: KafkaSettings) -> AsyncIterator[tuple[Process, int, list[int]]]:
    """The parent, the shared port, and the port of each worker's metrics; ready."""
    await ensure_topics(kafka, Topics.ALL)
    (port,), ops = free_ports(1), free_ports(2, consecutive=True)
    environment = {
        **os.environ,
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent),
        "LEYDEN_TOKEN_SECRET": "a secret of at least thirty-two characters",
        "LEYDEN_GATEWAY_HOST": "127.0.0.1",
        "LEYDEN_GATEWAY_PORT": str(port),
        "LEYDEN_GATEWAY_PROCESSES": "2",
        "LEYDEN_GATEWAY_ALLOW_ANONYMOUS": "true",
        "LEYDEN_OPS_HOST": "127.0.0.1",
        "LEYDEN_OPS_PORT": str(ops[0]),
    }
    with TemporaryFile() as output:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "leyden_gateway", env=environment, stdout=output, stderr=STDOUT
        )
        try:
            for worker in ops:
                await ready(parent, worker)
            yield parent, port, ops
        finally:
            if parent.returncode is None:
                parent.kill()
            await parent.wait()
            output.seek(0)
            print(output.read().decode())


async def ready(parent: Process, ops_port: int) -> None:
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient() as http:
        while True:
            assert parent.returncode is None, "the gateway ended"
            try:
                if (await http.get(f"http://127.0.0.1:{ops_port}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def served(ops_port: int) -> float:
    """How many calls a worker has refused: those for a policy that nobody published."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{ops_port}/metrics")).text
    counts = [
        line.split()[-1] for line in text.splitlines() if line.startswith("leyden_gateway_requests_total{")
    ]
    return sum(map(float, counts))


async def call(port: int) -> None:
    """One call on a connection of its own."""
    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert (await http.post(url, json={"model": "nobody", "messages": []})).status_code == 404


async def test_processes_share_the_port_and_stop_together(kafka: KafkaSettings) -> None:
    async with two_processes(kafka) as (parent, port, ops):
        async with asyncio.timeout(DEADLINE_S):
            while not all([await served(worker) for worker in ops]):
                await asyncio.gather(*(call(port) for _ in range(16)))
        parent.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            assert await parent.wait() == 0


async def test_one_that_dies_ends_the_others_and_is_told(kafka: KafkaSettings) -> None:
    async with two_processes(kafka) as (parent, _port, _ops):
        psutil.Process(parent.pid).children()[0].kill()
        async with asyncio.timeout(DEADLINE_S):
            assert await parent.wait() == 1


async def test_none_outlives_its_parent(kafka: KafkaSettings) -> None:
    async with two_processes(kafka) as (parent, _port, _ops):
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        parent.kill()
        await parent.wait()
        await eventually(lambda: not [worker for worker in workers if worker.is_running()])
