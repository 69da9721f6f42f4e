"""What the live services published about the rollouts of a replay, read from the log to its present end."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from leyden_platform.messaging import BoundedReader, Record
from leyden_platform.settings import KafkaSettings
from leyden_replay import facts
from leyden_replay.comparison import Told
from leyden_schemas import Topics


async def read_before(
    kafka: KafkaSettings, wanted: Collection[UUID], since: datetime, seen: Callable[[int], None]
) -> Told:
    """Trajectories and samples of ``wanted`` that were published at ``since`` or later.

    Of several revisions the highest counts, of several equal ones the last. ``seen`` is told how many records
    were read. Raises ``Unavailable``.
    """
    before = Told({}, {})
    async for record in _records(kafka, Topics.TRAJECTORIES.name, since, seen):
        try:
            rollout_id, told = facts.scored(record.value or b"")
        except ValidationError:
            continue
        known = before.scored.get(rollout_id)
        if rollout_id in wanted and (known is None or known.revision <= told.revision):
            before.scored[rollout_id] = told
    async for record in _records(kafka, Topics.SAMPLES.name, since, seen):
        if _about(record, wanted):
            with suppress(ValidationError):
                rollout_id, sample = facts.credited(record.value or b"")
                before.credited[rollout_id] = sample
    return before


async def _records(
    kafka: KafkaSettings, topic: str, since: datetime, seen: Callable[[int], None]
) -> AsyncIterator[Record]:
    async with BoundedReader(kafka, topic) as reader:
        for partition, offset in (await reader.offsets_at(since)).items():
            reader.seek(partition, offset)
            while (record := await reader.next(partition)) is not None:
                seen(1)
                yield record


def _about(record: Record, wanted: Collection[UUID]) -> bool:
    """Samples are keyed by rollout, so that the others need not be read."""
    try:
        return UUID((record.key or b"").decode()) in wanted
    except ValueError:
        return False
