"""The reward service on a topic of events, and events that lie on it at times of the test's choosing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer
from member_harness import DEADLINE_S, Member

from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, LogReader
from leyden_platform.settings import CatalogueSettings, KafkaSettings
from leyden_reward.app import processors
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.session_settings import SessionSettings
from leyden_reward.settings import RewardSettings
from leyden_schemas import EventMessage, Topics, Trajectory, encode


@dataclass
class Rewards:
    """What a reward group on one topic of events is made of; its members come and go."""

    settings: RewardSettings
    topic: str
    publisher: KafkaPublisher
    workers: RewardWorkers
    seen: list[Trajectory] = field(default_factory=list)

    def member(self) -> Member:
        """One that joins the group."""
        factory = processors(self.settings, self.workers, self.publisher, SystemClock())
        return Member(self.settings.kafka, self.settings.group, self.topic, self.publisher, factory)

    async def trajectories(
        self, rollout_id: UUID, done: Callable[[Sequence[Trajectory]], bool] = bool
    ) -> list[Trajectory]:
        """What was published about a rollout, as soon as that is enough."""
        found: list[Trajectory] = []
        async with (
            asyncio.timeout(DEADLINE_S),
            LogReader(self.settings.kafka, Topics.TRAJECTORIES.name) as log,
        ):
            while not done(found):
                read = [record.message() for record in await log.poll(0.2)]
                found += [message for message in read if message.rollout_id == rollout_id]
        return found


@asynccontextmanager
async def rewards(
    kafka: KafkaSettings, topic: str, publisher: KafkaPublisher, **sessions: object
) -> AsyncIterator[Rewards]:
    """A reward group of its own, with no user code."""
    chosen = SessionSettings(**sessions)  # type: ignore[arg-type]
    settings = RewardSettings(kafka=kafka, group=uuid4().hex, sessions=chosen)
    workers = RewardWorkers(CatalogueSettings())
    await workers.start()
    try:
        yield Rewards(settings, topic, publisher, workers)
    finally:
        await workers.stop()


async def put(kafka: KafkaSettings, topic: str, *told: tuple[datetime, EventMessage]) -> None:
    """Events as if they had been published then."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    try:
        for at, event in told:
            stamp = int(at.timestamp() * 1000)
            await producer.send_and_wait(topic, encode(event), key=event.key().encode(), timestamp_ms=stamp)
    finally:
        await producer.stop()
