"""What end-to-end tests share: the stack's configuration and eyes on its log."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from leyden_local.config import StackConfig, calculator
from leyden_local.state import StackState
from leyden_platform.messaging import LogReader
from leyden_platform.settings import KafkaSettings
from leyden_schemas import MalformedMessage

REPOSITORY = Path(__file__).parents[2]
DEADLINE_S = 150.0
QUICK_TRAINING = {
    "LEYDEN_LEARNER_BATCH_ROLLOUTS": "16",
    "LEYDEN_LEARNER_MIN_ROLLOUTS": "4",
    "LEYDEN_LEARNER_BATCH_TIMEOUT_S": "3",
    "LEYDEN_LEARNER_LR": "1e-5",
    "LEYDEN_RUNNER_LEASE_S": "6",
    "LEYDEN_RUNNER_HEARTBEAT_S": "2",
}

TASK: dict[str, Any] = {
    "input": {"question": "3 + 4 * 5"},
    "reference": "23",
    "policy": "calculator#latest",
    "reward": {"name": "calculator"},
}
QUESTIONS = [(f"{a} + {b} * {c}", str(a + b * c)) for a, b, c in [(3, 4, 5), (2, 7, 3), (9, 2, 8), (4, 4, 6)]]


def config(directory: Path, **changes: Any) -> StackConfig:
    """The calculator stack with quick training."""
    return calculator(REPOSITORY, directory, settings=QUICK_TRAINING, start_timeout_s=DEADLINE_S, **changes)


class Watcher:
    """Everything that lies on some topics, growing."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def of(self, kind: type[Any]) -> list[Any]:
        """The messages of one type."""
        return [message for message in self.messages if isinstance(message, kind)]

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait for a condition on the messages; fail saying what was awaited."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - a plain predicate, with a deadline
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"not within {timeout_s:g} s: {what}")


@asynccontextmanager
async def watching(bootstrap: str, *topics: str) -> AsyncIterator[Watcher]:
    """Follow topics from their beginning."""
    settings, stop, watcher = KafkaSettings(bootstrap=bootstrap, idempotent=False), asyncio.Event(), Watcher()

    async def follow(topic: str) -> None:
        async with LogReader(settings, topic) as reader:
            async for record in reader.follow(stop):
                try:
                    watcher.messages.append(record.message())
                except MalformedMessage:
                    continue

    tasks = [asyncio.create_task(follow(topic)) for topic in topics]
    try:
        yield watcher
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def send(state: StackState, *values: bytes) -> None:
    """Publish raw bytes as any Kafka client would, knowing nothing of Leyden."""
    producer = AIOKafkaProducer(bootstrap_servers=state.endpoints.kafka, max_request_size=32 * 1024 * 1024)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait("leyden.tasks.v1", value)
    finally:
        await producer.stop()


def tasks(run: str, *, mark: str = "", **changes: Any) -> list[bytes]:
    """One message per question; ``mark`` tells those of one test from others of the same run."""
    return [
        json.dumps(
            TASK | {"run": run, "input": {"question": q, "mark": mark}, "reference": answer} | changes
        ).encode()
        for q, answer in QUESTIONS
    ]
