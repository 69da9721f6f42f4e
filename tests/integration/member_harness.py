"""A member of a consumer group around one service's processors, and readers of what it publishes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from leyden_platform.messaging import (
    ConsumerGroup,
    KafkaPublisher,
    LogReader,
    Partition,
    Processor,
    ProcessorFactory,
    Record,
)
from leyden_platform.settings import KafkaSettings
from leyden_schemas import DeadLetter, Topic, Topics

DEADLINE_S = 60.0


class Member:
    """A running member of ``group``, with a hand on its processors."""

    def __init__(
        self,
        kafka: KafkaSettings,
        group: str,
        topic: str,
        publisher: KafkaPublisher,
        factory: ProcessorFactory,
    ) -> None:
        self.processors: list[Processor] = []
        self._make = factory
        self.stop = asyncio.Event()
        self.consumer = ConsumerGroup(
            kafka, topics=[topic], group=group, factory=self._factory, publisher=publisher, tick_s=0.1
        )
        self.task = asyncio.create_task(self.consumer.run(self.stop))

    def _factory(self, partition: Partition) -> Processor:
        self.processors.append(self._make(partition))
        return self.processors[-1]

    async def crash(self) -> None:
        """End at once: nothing more is published or committed."""
        self.task.cancel()
        await asyncio.gather(self.task, *(p.close() for p in self.processors), return_exceptions=True)

    async def leave(self) -> None:
        """Drain and stop."""
        self.stop.set()
        await self.task


async def read_until(
    kafka: KafkaSettings, topic: Topic, done: Callable[[Sequence[Record]], bool]
) -> list[Record]:
    """Records of a topic from its beginning until ``done``."""
    records: list[Record] = []
    async with asyncio.timeout(DEADLINE_S), LogReader(kafka, topic.name) as reader:
        while not done(records):
            records += await reader.poll(timeout_s=0.2)
    return records


async def of_rollouts(kafka: KafkaSettings, topic: Topic, wanted: set[UUID]) -> list[Any]:
    """Everything published on ``topic`` about these rollouts, once each of them has appeared."""

    def mine(records: Sequence[Record]) -> list[Any]:
        named = [str(rollout_id).encode() for rollout_id in wanted]
        about = (r for r in records if r.value and any(name in r.value for name in named))
        return [message for record in about if (message := record.message()).rollout_id in wanted]

    return mine(await read_until(kafka, topic, lambda seen: {m.rollout_id for m in mine(seen)} >= wanted))


async def letters_of(kafka: KafkaSettings, source: str, count: int) -> list[DeadLetter]:
    """The dead letters of the topic ``source``, once there are ``count``."""

    def mine(records: Sequence[Record]) -> list[DeadLetter]:
        return [letter for r in records if (letter := r.message()).source_topic == source]

    return mine(await read_until(kafka, Topics.DEADLETTERS, lambda seen: len(mine(seen)) >= count))
