"""A learner's world: one policy, its samples on a real broker, a real Postgres, a folder and a registry."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prometheus_client import REGISTRY

from leyden_learner.app import build_learner
from leyden_learner.learner import Learner
from leyden_learner.repository import Checkpoint, CheckpointRepository
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import RegistryStub, make_sample, write_model
from leyden_platform.database import create_engine
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import DatabaseSettings, KafkaSettings, OpsSettings
from leyden_schemas import Topics, TrainingSample, encode

DEADLINE_S = 60.0
BATCH = 4


@dataclass
class World:
    """One policy with its samples, database, registry and checkpoint folder."""

    kafka: KafkaSettings
    database: DatabaseSettings
    folder: Path
    first: Path
    policy: str
    registry: RegistryStub = field(init=False)

    def __post_init__(self) -> None:
        self.registry = RegistryStub(self.policy, self.first)

    def settings(self, **changes: Any) -> LearnerSettings:
        """A learner of four rollouts a step; None leaves a setting at its default."""
        defaults: dict[str, Any] = {
            "kafka": self.kafka,
            "database": self.database,
            "ops": OpsSettings(port=0),
            "policy": self.policy,
            "registry_url": "http://registry",
            "checkpoint_dir": self.folder / "checkpoints",
            "batch_rollouts": BATCH,
            "min_rollouts": 1,
            "max_staleness": 100,
            "lr": 1e-2,
            "threads": 1,
            "device": "cpu",
        }
        wanted = defaults | changes
        return LearnerSettings(**{name: value for name, value in wanted.items() if value is not None})

    def learner(self, **changes: Any) -> Learner:
        """A learner over this world."""
        return build_learner(self.settings(**changes), httpx.ASGITransport(self.registry.app))

    def sample(self, index: int, **changes: Any) -> TrainingSample:
        """A sample of this policy."""
        return make_sample(index, **({"policy": self.policy} | changes))

    async def publish(self, *samples: TrainingSample) -> None:
        """Put samples into one partition, in order."""
        await self.publish_raw(*map(encode, samples))

    async def publish_raw(self, *values: bytes) -> None:
        """Put bytes into the same partition."""
        publisher = KafkaPublisher(self.kafka, "tests")
        await publisher.start()
        for value in values:
            await publisher.publish_raw(Topics.SAMPLES.name, b"one partition", value)
        await publisher.stop()

    @asynccontextmanager
    async def repository(self) -> AsyncIterator[CheckpointRepository]:
        """The learner's tables."""
        engine = create_engine(self.database)
        yield CheckpointRepository(engine, self.policy, "default")
        await engine.dispose()

    async def checkpoints(self) -> list[Checkpoint]:
        """Committed checkpoints, oldest first."""
        async with self.repository() as repository:
            return (await repository.newest(100))[::-1]

    def count(self, metric: str, **labels: str) -> float:
        """A metric of this policy."""
        return REGISTRY.get_sample_value(metric, {"policy": self.policy, **labels}) or 0.0

    def dropped(self, reason: str) -> float:
        """Samples dropped for a reason."""
        return self.count("leyden_learner_samples_dropped_total", reason=reason)


async def worlds(kafka: KafkaSettings, database: DatabaseSettings, folder: Path) -> Callable[[], World]:
    """Makes worlds that share broker, database and first version, each with its own policy."""
    await ensure_topics(kafka, [Topics.SAMPLES])
    first = write_model(folder / "first")
    return lambda: World(kafka, database, folder, first, f"tiny-{uuid4().hex[:8]}")


@asynccontextmanager
async def running(learner: Learner) -> AsyncIterator["asyncio.Task[None]"]:
    """The learner at work; stopped in the end, which it must survive."""
    stop = asyncio.Event()
    task = asyncio.create_task(learner.run(stop))
    try:
        yield task
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def until(condition: Callable[[], object], task: "asyncio.Task[None]") -> None:
    """Wait for a condition while the learner lives."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            if task.done():
                task.result()
                raise AssertionError("the learner returned early")
            await asyncio.sleep(0.02)


async def train(world: World, steps: int, **changes: Any) -> None:
    """Run a learner until its versions are ``steps``."""
    async with running(world.learner(max_steps=steps, **changes)) as task:
        await until(lambda: len(world.registry.registered) == steps, task)
