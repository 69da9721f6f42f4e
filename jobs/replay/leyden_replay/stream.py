"""The stream that a replay writes: topics of its own, and messages that say which replay they belong to.

``leyden.trajectories.v1.NAME`` and ``leyden.samples.v1.NAME`` hold what the live topics would have held,
except that ``run`` is NAME and ids derive from NAME and the live ids. Nothing that reads the live topics sees
them.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from typing import Self

import structlog

from leyden_platform.messaging import BoundedReader, KafkaPublisher, Rejected, Unavailable, ensure_topics
from leyden_platform.messaging.publisher import cloud_event_headers
from leyden_platform.settings import KafkaSettings
from leyden_replay.pipeline import Result
from leyden_schemas import Message, Topic, Topics, TrainingSample, Trajectory, cause_id, decode, encode

log = structlog.get_logger(__name__)

DEFINITIONS = "leyden-definitions"
"""Header: a digest of what the message was derived with."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES = 5


class BadName(ValueError):
    """No stream can have this name."""


class OtherDefinitions(ValueError):
    """The stream holds the results of another replay."""


def topics_of(name: str) -> tuple[Topic, Topic]:
    """The topics of the replay ``name``: trajectories, samples. Raises ``BadName``."""
    if not _NAME.fullmatch(name):
        raise BadName(
            f"--into {name!r}: a name begins with a letter or digit and goes on with these, '.', '_', '-', "
            "in all at most 100"
        )
    trajectories, samples = Topics.TRAJECTORIES, Topics.SAMPLES
    return (
        Topic(f"{trajectories.name}.{name}", trajectories.partitions),
        Topic(f"{samples.name}.{name}", samples.partitions),
    )


def restamped(message: Message, name: str) -> tuple[str, Message]:
    """The message as one of the replay, and its id."""
    match message:
        case Trajectory():
            own = str(cause_id("replayed", name, message.trajectory_id))
            return own, message.model_copy(
                update={"run": name, "trajectory_id": cause_id("replayed", name, message.trajectory_id)}
            )
        case TrainingSample():
            own = str(cause_id("replayed", name, message.sample_id))
            return own, message.model_copy(
                update={"run": name, "sample_id": cause_id("replayed", name, message.sample_id)}
            )
    raise TypeError(f"a replay derives no {type(message).__name__}")


class ReplayStream:
    """Writes results that are not there yet."""

    def __init__(self, kafka: KafkaSettings, name: str, definitions: str) -> None:
        self._kafka, self._name, self._definitions = kafka, name, definitions
        self._topics = topics_of(name)
        self._publisher = KafkaPublisher(kafka, "replay")
        self._there: set[str] = set()
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        """Make the topics, or see what they hold. Raises ``OtherDefinitions``, ``Unavailable``."""
        created = await ensure_topics(self._kafka, self._topics)
        for topic in self._topics:
            if topic.name not in created:
                await self._read(topic.name)
        await self._publisher.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._publisher.stop()

    async def write(self, results: Sequence[Result]) -> None:
        """Publish what is not there yet, and wait for the acknowledgements. Raises ``Unavailable``."""
        await asyncio.gather(*map(self._write, results))

    async def _write(self, result: Result) -> None:
        base = Topics.SAMPLES if result.topic.startswith(Topics.SAMPLES.name) else Topics.TRAJECTORIES
        identity, message = restamped(decode(base, result.value), self._name)
        kind = "samples" if base is Topics.SAMPLES else "trajectories"
        if identity in self._there:
            self.counts[f"{kind} already there"] += 1
            return
        self._there.add(identity)
        key = message.key()
        headers = cloud_event_headers(message, "replay", key) | {
            "ce_id": identity,
            DEFINITIONS: self._definitions,
        }
        try:
            await self._publish(f"{base.name}.{self._name}", key, encode(message), headers)
        except Rejected as error:
            self.counts[f"{kind} too large"] += 1
            log.error("result_dropped", kind=kind, id=identity, error=str(error))
        else:
            self.counts[kind] += 1

    async def _publish(self, topic: str, key: str, value: bytes, headers: dict[str, str]) -> None:
        encoded = [(name, text.encode()) for name, text in headers.items()]
        for attempt in range(1, _TRIES + 1):
            try:
                await self._publisher.publish_encoded(topic, key.encode(), value, encoded)
                return
            except Unavailable:
                if attempt == _TRIES:
                    raise
                await asyncio.sleep(0.2 * 2**attempt)

    async def _read(self, topic: str) -> None:
        async with BoundedReader(self._kafka, topic) as reader:
            for partition in reader.extents:
                while (record := await reader.next(partition)) is not None:
                    if record.headers.get(DEFINITIONS) != self._definitions:
                        raise OtherDefinitions(
                            f"{topic} holds a replay with other rewards, rules or estimators; choose another "
                            "name with --into, or delete its topics"
                        )
                    self._there.add(record.headers.get("ce_id", ""))
