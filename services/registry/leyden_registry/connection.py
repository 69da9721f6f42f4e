"""Connecting to Kafka without needing it: the registry works while the log is away, and announces later."""

import asyncio
import contextlib

import structlog

from leyden_platform.messaging import KafkaPublisher, PublishFailed

log = structlog.get_logger(__name__)

RETRY_S = 1.0
"""Pause between attempts to connect."""

FLUSH_S = 3.0
"""How long a stop waits for messages under way; what is not acknowledged is still in the outbox."""


class KafkaLink:
    """A component that connects the publisher, however long it takes, and disconnects it at the end."""

    def __init__(self, publisher: KafkaPublisher) -> None:
        self.name = "kafka"
        self._publisher = publisher

    def not_ready(self) -> str | None:
        """Always ready: until Kafka is reached, announcements wait in the outbox."""
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Connect, and stay connected until ``stop``."""
        while not stop.is_set() and not await self._connected():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await stop.wait()
        await stop.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._publisher.stop()

    async def _connected(self) -> bool:
        try:
            await self._publisher.start()
        except PublishFailed as error:
            log.warning("kafka_unreachable", error=str(error))
            return False
        return True
