"""The registry as a process: killed without warning, and started while Kafka is away."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from leyden_local.broker import broker_command
from leyden_local.ports import free_ports
from leyden_platform.messaging import LogReader, Unavailable, ensure_topics
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import AliasMoved, ModelPublished, Topics

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
DEADLINE_S = 60.0


def checkpoint(folder: Path) -> str:
    """A small complete checkpoint folder; its URI."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    header = b'{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return folder.as_uri()


class Process:
    """A running registry."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, ops_port: int) -> None:
        self.process = process
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}")
        self._ops = f"http://127.0.0.1:{ops_port}"

    async def ready(self) -> None:
        """Wait until /readyz says so."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert self.process.returncode is None, "the registry ended"
                try:
                    if (await self.http.get(f"{self._ops}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The process does not run meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        yield
        self.process.send_signal(signal.SIGCONT)

    async def pending(self, count: int) -> None:
        """Wait until this many messages are in the outbox."""
        wanted = f'leyden_outbox_pending{{outbox="registry"}} {count:.1f}'
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if wanted in (await self.http.get(f"{self._ops}/metrics")).text.splitlines():
                    return
                await asyncio.sleep(0.05)

    async def publish(self, policy: str, artifact: str) -> int:
        """Publish a version that ``latest`` follows; its number."""
        body = {"version_id": str(uuid4()), "artifact": artifact, "aliases": ["latest"]}
        response = await self.http.post(f"/v1/policies/{policy}/versions", json=body)
        assert response.status_code == 201, response.text
        return int(response.json()["version"])


@asynccontextmanager
async def registry(
    database: DatabaseSettings, kafka: KafkaSettings, *, announce: bool = False
) -> AsyncIterator[Process]:
    """A registry process, ready; ended with SIGTERM unless the test killed it."""
    port, ops_port = free_ports(2)
    environment = os.environ | {
        "LEYDEN_DATABASE_URL": database.url.get_secret_value(),
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent),
        "LEYDEN_OPS_PORT": str(ops_port),
        "LEYDEN_REGISTRY_PORT": str(port),
        "LEYDEN_REGISTRY_ANNOUNCE_ON_START": str(announce),
    }
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "leyden_registry", env=environment)
    running = Process(child, port, ops_port)
    try:
        await running.ready()
        yield running
        if child.returncode is None:
            child.terminate()
            async with asyncio.timeout(DEADLINE_S):
                assert await child.wait() == 0, "SIGTERM drains and exits cleanly"
    finally:
        await running.http.aclose()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def announced(kafka: KafkaSettings, policy: str, count: int) -> list[str]:
    """The first ``count`` announcements about ``policy``."""
    found: list[str] = []
    async with LogReader(kafka, Topics.MODELS.name) as reader, asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            messages = [record.message() for record in await reader.poll(0.5)]
            found += [_brief(message) for message in messages if message.policy == policy]
    return found


def _brief(message: ModelPublished | AliasMoved) -> str:
    return f"{message.key()}={message.version}" if isinstance(message, AliasMoved) else message.key()


async def test_rows_committed_by_a_killed_process_are_relayed_by_the_next(
    database: DatabaseSettings, kafka: KafkaSettings, tmp_path: Path
) -> None:
    await ensure_topics(kafka, [Topics.MODELS])
    policy, (dead_port,) = f"killed-{uuid4().hex[:8]}", free_ports(1)
    nowhere = kafka.model_copy(update={"bootstrap": f"127.0.0.1:{dead_port}"})
    async with registry(database, nowhere) as first:
        for number in range(3):
            assert await first.publish(policy, checkpoint(tmp_path / str(number))) == number
        await first.pending(6)
        first.process.kill()
        await first.process.wait()
    expected = [brief for n in range(3) for brief in (f"{policy}@{n}", f"{policy}#latest={n}")]
    async with registry(database, kafka) as second:
        assert await announced(kafka, policy, 6) == expected
        assert await second.publish(policy, checkpoint(tmp_path / "3")) == 3
    assert (await announced(kafka, policy, 8))[6:] == [f"{policy}@3", f"{policy}#latest=3"]


async def test_a_start_announces_again_for_a_broker_that_lost_everything(
    database: DatabaseSettings, kafka: KafkaSettings, tmp_path: Path
) -> None:
    await ensure_topics(kafka, [Topics.MODELS])
    policy = f"again-{uuid4().hex[:8]}"
    async with registry(database, kafka) as first:
        await first.publish(policy, checkpoint(tmp_path / "0"))
        await first.publish(policy, checkpoint(tmp_path / "1"))
        await announced(kafka, policy, 4)
    async with registry(database, kafka, announce=True):
        again = (await announced(kafka, policy, 7))[4:]
    assert again == [f"{policy}@0", f"{policy}@1", f"{policy}#latest=1"]


class Broker:
    """An embedded broker of this test's own, to take away and give back at the same address."""

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def settings(self) -> KafkaSettings:
        """How to reach it."""
        return KafkaSettings(bootstrap=f"127.0.0.1:{self._port}", idempotent=False, request_timeout_s=5)

    async def start(self) -> None:
        """Start empty, with the models topic."""
        self._process = await asyncio.create_subprocess_exec(
            *broker_command(self._port), stdout=DEVNULL, stderr=DEVNULL
        )
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await ensure_topics(self.settings, [Topics.MODELS])
                    return
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Take it away, with everything it held."""
        if self._process:
            self._process.kill()
            await self._process.wait()
            self._process = None


async def test_publishing_goes_on_while_the_broker_is_away(
    database: DatabaseSettings, tmp_path: Path
) -> None:
    policy, broker = "calculator", Broker()
    await broker.start()
    try:
        async with registry(database, broker.settings) as running:
            await running.publish(policy, checkpoint(tmp_path / "0"))
            await announced(broker.settings, policy, 2)
            await broker.kill()
            assert await running.publish(policy, checkpoint(tmp_path / "1")) == 1
            await running.pending(2)
            with (
                running.suspended()
            ):  # the embedded broker spoils a topic that is produced to before it exists
                await broker.start()
            assert await announced(broker.settings, policy, 2) == [f"{policy}@1", f"{policy}#latest=1"]
            assert (await running.http.post("/v1/announce")).json() == {"announced": 3}
            assert (await announced(broker.settings, policy, 5))[2:] == [
                f"{policy}@0",
                f"{policy}@1",
                f"{policy}#latest=1",
            ]
            await broker.kill()
            await running.publish(policy, checkpoint(tmp_path / "2"))
    finally:
        await broker.kill()
