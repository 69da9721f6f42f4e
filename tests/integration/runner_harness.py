"""A runner in this process or as one of its own, on topics of its own, and what it announces."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from pydantic import HttpUrl, SecretStr

from leyden_platform.messaging import KafkaPublisher, LogReader, ensure_topics
from leyden_platform.settings import CatalogueSettings, DatabaseSettings, KafkaSettings, OpsSettings
from leyden_platform.tokens import TokenSettings
from leyden_runner.app import build
from leyden_runner.settings import CallableAgent, RunnerSettings, rollout_topic, task_topic
from leyden_schemas import (
    DeadLetter,
    MalformedMessage,
    ModelPublished,
    RolloutAssigned,
    RolloutFinished,
    RolloutStarted,
    Topic,
    Topics,
    new_id,
)

SECRET = "a test secret of at least thirty-two characters"
AGENTS = '''
import os, time


def echo(task):
    return task


def hold(task):
    """Runs until the file it is told of exists, or for ever."""
    with open(task["log"], "a") as log:
        log.write(f"{os.environ['LEYDEN_ATTEMPT']} {os.getpid()}\\n")
    while not os.path.exists(task["until"]):
        time.sleep(0.02)
    return "released"


class APIConnectionError(Exception):
    pass


APIConnectionError.__module__ = "openai"


def flaky(task):
    if int(os.environ["LEYDEN_ATTEMPT"]) < task["good"]:
        raise APIConnectionError("Connection error.")
    return "at last"


def environment(task):
    return dict(os.environ)


def fails(task):
    raise ValueError("wrong turn")


def dies(task):
    os.kill(os.getpid(), 9)


def hangs(task):
    time.sleep(600)


def garbage(task):
    os.write(1, b"\\xff\\xfe\\x00" * 100_000)
    return None
'''
WAIT_S = 60.0


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail, naming it, when it does not come about."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT_S:g} s"
        await asyncio.sleep(0.02)


class Bench:
    """The surroundings of a runner: topics, a published policy, a catalogue, and eyes on the log."""

    def __init__(self, kafka: KafkaSettings, database: DatabaseSettings, folder: Path) -> None:
        self.kafka, self.database, self.folder = kafka, database, folder
        self.unique = uuid4().hex[:10]
        self.queue, self.policy = f"q{self.unique}", f"policy-{self.unique}"
        self.publisher = KafkaPublisher(kafka, source="test")
        self.started: list[RolloutStarted] = []
        self.finished: list[RolloutFinished] = []
        self.letters: list[DeadLetter] = []
        (folder / "runner_service_agents.py").write_text(AGENTS)

    def settings(self, **changes: Any) -> RunnerSettings:
        """Settings of a runner with every agent of the catalogue; ``echo`` is the default."""
        names = [line[4:].partition("(")[0] for line in AGENTS.splitlines() if line.startswith("def ")]
        agents = {name: CallableAgent(callable=f"runner_service_agents:{name}") for name in names}
        values: dict[str, Any] = {
            "kafka": self.kafka,
            "database": self.database,
            "ops": OpsSettings(port=0),
            "token": TokenSettings(secret=SecretStr(SECRET)),
            "catalogue": CatalogueSettings(path=[str(self.folder)], rewards={"mine": "reward:score"}),
            "agents": {**agents, "default": agents["echo"]},
            "gateway_url": HttpUrl("http://127.0.0.1:9"),
            "queues": [self.queue],
            "group": f"runner-{self.unique}",
            "policy_wait_s": 0.5,
            "retry_backoff_s": 0.05,
            "kill_grace_s": 0.5,
            "concurrency": 4,
        }
        return RunnerSettings(**{**values, **changes})

    @property
    def tasks(self) -> str:
        """The task topic of this bench's queue."""
        return task_topic(self.queue).name

    @property
    def rollouts(self) -> str:
        """The rollout topic of this bench's queue."""
        return rollout_topic(self.queue).name

    async def send(self, task: object, headers: dict[str, str] | None = None) -> None:
        """Publish a task as any Kafka client would: bytes, and nothing else unless given."""
        value = task if isinstance(task, bytes) else json.dumps(task).encode()
        await self.publisher.publish_raw(self.tasks, None, value, headers)

    def task(self, **fields: Any) -> dict[str, Any]:
        """A small valid task of this bench's policy."""
        return {"input": {"question": "2 + 2"}, "policy": self.policy, **fields}

    def finished_of(self, task_id: str) -> list[RolloutFinished]:
        """What was announced about the rollouts of a task, in order."""
        of = {event.rollout_id for event in self.started if event.task.task_id == task_id}
        return [event for event in self.finished if event.rollout_id in of]

    async def outcome(self, task_id: str) -> RolloutFinished:
        """The final event of the only rollout of a task."""
        await until(
            lambda: any(e.final for e in self.finished_of(task_id)), f"the end of the rollout of {task_id}"
        )
        return self.finished_of(task_id)[-1]

    async def watch(self, topic: Topic, keep: Callable[[Any], None]) -> None:
        """Read a topic for ever."""
        async with LogReader(self.kafka, topic.name) as reader:
            while True:
                for record in await reader.poll(0.1):
                    try:
                        keep(record.message())
                    except MalformedMessage:
                        continue

    def keep_event(self, event: Any) -> None:
        """Remember events, of whichever test."""
        if isinstance(event, RolloutStarted):
            self.started.append(event)
        elif isinstance(event, RolloutFinished):
            self.finished.append(event)

    def keep_letter(self, letter: DeadLetter) -> None:
        """Remember the dead letters of this bench's topics."""
        if letter.source_topic in (self.tasks, self.rollouts):
            self.letters.append(letter)

    async def ledger(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Rows from the runner's schema."""
        connection = await asyncpg.connect(self.database.url.get_secret_value().replace("+asyncpg", ""))
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *values)
            return rows
        finally:
            await connection.close()

    def process(self, **changes: Any) -> "subprocess.Popen[bytes]":
        """A runner as a process of its own; a runner needs a second or two."""
        settings = self.settings(**changes)
        plain = {
            name: getattr(settings, name)
            for name in ("concurrency", "lease_s", "heartbeat_s", "drain_timeout_s", "group", "gateway_url")
        }
        environment = {
            **os.environ,
            **{f"LEYDEN_RUNNER_{name.upper()}": str(value) for name, value in plain.items()},
            "LEYDEN_RUNNER_QUEUES": json.dumps(settings.queues),
            "LEYDEN_RUNNER_AGENTS": json.dumps({n: a.model_dump() for n, a in settings.agents.items()}),
            "LEYDEN_CATALOGUE_PATH": json.dumps([str(self.folder)]),
            "LEYDEN_TOKEN_SECRET": SECRET,
            "LEYDEN_DATABASE_URL": self.database.url.get_secret_value(),
            "LEYDEN_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "LEYDEN_KAFKA_IDEMPOTENT": str(self.kafka.idempotent),
            "LEYDEN_KAFKA_SESSION_TIMEOUT_S": str(self.kafka.session_timeout_s),
            "LEYDEN_OPS_PORT": "0",
        }
        return subprocess.Popen([sys.executable, "-m", "leyden_runner"], env=environment)


@asynccontextmanager
async def bench(kafka: KafkaSettings, database: DatabaseSettings, folder: Path) -> AsyncIterator[Bench]:
    """A bench with its topics, its policy published and its watchers running."""
    made = Bench(kafka, database, folder)
    await ensure_topics(kafka, [*Topics.ALL, task_topic(made.queue), rollout_topic(made.queue)])
    await made.publisher.start()
    watchers = [
        asyncio.create_task(made.watch(Topics.EVENTS, made.keep_event)),
        asyncio.create_task(made.watch(Topics.DEADLETTERS, made.keep_letter)),
    ]
    await made.publisher.publish(published(made.policy))
    try:
        yield made
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await made.publisher.stop()


def published(policy: str, version: int = 0) -> ModelPublished:
    """The announcement of a policy version."""
    return ModelPublished(
        event_id=new_id(), policy=policy, version=version, occurred_at="2026-01-01T00:00:00Z",
        artifact="file:///nowhere", digest="0",
    )  # fmt: skip


@asynccontextmanager
async def running(settings: RunnerSettings) -> AsyncIterator[None]:
    """A runner in this process, ready; stopped in the order in which a service stops."""
    components = await build(settings)
    stops = [asyncio.Event() for _ in components]
    tasks = [asyncio.create_task(c.run(stop)) for c, stop in zip(components, stops, strict=True)]

    def ready() -> bool:
        for task in tasks:
            if task.done():
                task.result()
        return all(component.not_ready() is None for component in components)

    try:
        await until(ready, "readiness")
        yield
    finally:
        for task, stop in reversed(list(zip(tasks, stops, strict=True))):
            stop.set()
            await task


def rollout_ids(assigned: Sequence[RolloutAssigned]) -> list[UUID]:
    """The ids of some assignments."""
    return [each.rollout_id for each in assigned]
