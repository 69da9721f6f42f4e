"""The broker, and one service process at a time, each on a core of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psutil
from gateway_bench.processes import Cores, await_answer, http, spawned

from leyden_local.broker import broker_command
from leyden_local.ports import HOST, accepts, free_ports
from leyden_platform.messaging import KafkaPublisher, LogReader, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topic, Topics, decode
from streams_bench.traffic import Told

_WAIT_S = 240.0
_CHUNK = 400
_REST_S = 12.0
_POLL_S = 0.2
"""Answering costs the service some milliseconds."""
SESSION_S = 2
"""How long the group waits for a member that was killed; LEYDEN_KAFKA_SESSION_TIMEOUT_S."""


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    kafka: KafkaSettings
    cores: Cores
    folder: Path


@contextmanager
def broker(cores: Cores, folder: Path) -> Iterator[Place]:
    """A new broker with all topics."""
    (port,) = free_ports(1)
    log = folder / "broker.log"
    with spawned(broker_command(port), cores=cores.load, log=log) as process:
        await_answer(process, log, lambda: accepts(port))
        kafka = KafkaSettings(
            bootstrap=f"{HOST}:{port}", idempotent=False, session_timeout_s=SESSION_S, request_timeout_s=60
        )
        asyncio.run(ensure_topics(kafka, Topics.ALL))
        yield Place(kafka, cores, folder)


async def _preload(kafka: KafkaSettings, topic: Topic, records: Iterator[Told]) -> int:
    publisher, count = KafkaPublisher(kafka, "bench"), 0
    await publisher.start()
    try:
        chunk: list[Told] = []
        for told in records:
            chunk.append(told)
            if len(chunk) == _CHUNK:
                count += await _put(publisher, topic, chunk)
                chunk = []
        return count + await _put(publisher, topic, chunk)
    finally:
        await publisher.stop()


async def _put(publisher: KafkaPublisher, topic: Topic, chunk: Sequence[Told]) -> int:
    await asyncio.gather(*(publisher.publish_encoded(topic.name, key, value, ()) for key, value in chunk))
    return len(chunk)


def preload(place: Place, topic: Topic, records: Iterator[Told]) -> int:
    """Put records on a topic; return how many."""
    return asyncio.run(_preload(place.kafka, topic, records))


class Service:
    """A running process of ours."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._process, self._port = process, port

    def taken(self, metric: str) -> int:
        """The sum of a counter, whatever its labels."""
        _, _, body = http(f"http://{HOST}:{self._port}/metrics", timeout_s=5)
        values = re.findall(rf"^{metric}(?:{{[^}}]*}})? (\S+)$", body.decode(), re.MULTILINE)
        return int(sum(map(float, values)))

    def wait(self, metric: str, count: int) -> float:
        """The time at which a counter had reached ``count``."""
        deadline = time.monotonic() + _WAIT_S
        while (seen := self.taken(metric)) < count:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"{metric} is at {seen} of {count}; see the logs")
            time.sleep(_POLL_S)
        return time.monotonic()

    def rss(self) -> int:
        """Bytes of its memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def rss_at_rest(self) -> int:
        """Bytes of its memory once it has given back what it needed for the work that ended just now."""
        deadline, found = time.monotonic() + _REST_S, [self.rss()]
        while time.monotonic() < deadline:
            time.sleep(_POLL_S)
            found.append(self.rss())
        return min(found)

    def cpu(self) -> float:
        """Seconds it has computed."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """End it without warning."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def service(name: str, place: Place, **settings: str) -> Iterator[Service]:
    """``python -m leyden_<name>``, once it answers; it need not have read anything yet."""
    (port,) = free_ports(1)
    kafka = place.kafka
    env = {
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": "false",
        "LEYDEN_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
        "LEYDEN_OPS_PORT": str(port),
        "LEYDEN_OPS_HOST": HOST,
        "LEYDEN_LOG_LEVEL": "WARNING",
        **settings,
    }
    log = place.folder / f"{name}.log"
    with spawned(
        [sys.executable, "-m", f"leyden_{name}"], cores=place.cores.subject, log=log, env=env
    ) as process:
        await_answer(process, log, lambda: http(f"http://{HOST}:{port}/healthz")[0] == 200)
        yield Service(process, port)


async def _results(kafka: KafkaSettings, topic: Topic, kind: str) -> list[tuple[UUID, int]]:
    found: list[tuple[UUID, int]] = []
    async with LogReader(kafka, topic.name) as reader:
        ends = await reader.end_offsets()
        while True:
            positions = await reader.positions()
            if all(positions[place] >= end for place, end in ends.items()):
                return found
            for record in await reader.poll(timeout_s=0.5):
                message = decode(topic, record.value)
                found.append((getattr(message, kind), hash(record.value)))


@dataclass(frozen=True)
class Accounts:
    """Results on a topic by id. ``repeated`` are equal ones once more; ``contradictory`` differ."""

    distinct: int
    repeated: int
    contradictory: int


def accounts(place: Place, topic: Topic, kind: str) -> Accounts:
    """Every result there is."""
    found = asyncio.run(_results(place.kafka, topic, kind))
    by_id = Counter(identity for identity, _ in found)
    differing = Counter(identity for identity, _ in set(found))
    return Accounts(len(by_id), len(found) - len(set(found)), sum(count > 1 for count in differing.values()))
