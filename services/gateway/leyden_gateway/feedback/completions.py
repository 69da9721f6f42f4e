"""Which rollout a completion belongs to: from memory when it was answered here lately, else from the log.

A completion's id says when it was born, so the log is searched around that time only, for a bounded time.
"""

import asyncio
from collections import OrderedDict
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from leyden_gateway import metrics
from leyden_gateway.errors import CompletionNotFound
from leyden_platform.clock import born_at
from leyden_platform.messaging import Record, Unavailable, read_stretch
from leyden_platform.settings import KafkaSettings
from leyden_schemas import CompletionRecorded, MalformedMessage, Topics

_BEFORE = timedelta(seconds=5)
"""Clocks of gateways and brokers differ."""
_AT_ONCE = 2
"""Searches of one process; others wait their turn, within their deadline."""
_REMEDY = "; send its session, or its rollout_id (x-leyden-rollout-id), with it"


class Origin(NamedTuple):
    """Where a completion is recorded."""

    tenant: str
    run: str
    rollout_id: UUID


class RecentCompletions:
    """The last ``capacity`` completions that this process answered."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._origins: OrderedDict[UUID, Origin] = OrderedDict()

    def remember(self, completion_id: UUID, origin: Origin) -> None:
        """The newest one; beyond the capacity the oldest is forgotten."""
        self._origins[completion_id] = origin
        if len(self._origins) > self._capacity:
            self._origins.popitem(last=False)

    def find(self, completion_id: UUID) -> Origin | None:
        """Where it is recorded; None when it is not remembered."""
        return self._origins.get(completion_id)


class Completions:
    """Finds completions. ``longest_s`` is how long after its birth a completion may have been recorded."""

    def __init__(
        self, kafka: KafkaSettings, recent: RecentCompletions, *, longest_s: float, timeout_s: float
    ) -> None:
        self._kafka, self.recent = kafka, recent
        self._longest, self._timeout_s = timedelta(seconds=longest_s), timeout_s
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def origin(self, completion_id: UUID) -> Origin:
        """Where it is recorded. Raises ``CompletionNotFound``."""
        if (known := self.recent.find(completion_id)) is not None:
            metrics.FEEDBACK_LOOKUPS.labels("memory").inc()
            return known
        found = await self._search(completion_id)
        metrics.FEEDBACK_LOOKUPS.labels("log").inc()
        self.recent.remember(completion_id, found)
        return found

    async def _search(self, completion_id: UUID) -> Origin:
        if completion_id.version != 7:
            metrics.FEEDBACK_LOOKUPS.labels("not_ours").inc()
            raise CompletionNotFound(f"completion {completion_id} is none of this gateway's{_REMEDY}")
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                found = await self._read(completion_id)
        except TimeoutError:
            metrics.FEEDBACK_LOOKUPS.labels("timeout").inc()
            raise CompletionNotFound(
                f"completion {completion_id} was not found in {self._timeout_s:g} s of reading{_REMEDY}"
            ) from None
        except Unavailable as error:
            metrics.FEEDBACK_LOOKUPS.labels("unavailable").inc()
            raise CompletionNotFound(f"the log cannot be searched ({error}){_REMEDY}") from None
        if found is None:
            metrics.FEEDBACK_LOOKUPS.labels("nowhere").inc()
            raise CompletionNotFound(f"completion {completion_id} is not on the log (any more){_REMEDY}")
        return found

    async def _read(self, completion_id: UUID) -> Origin | None:
        born, needle = born_at(completion_id), str(completion_id).encode()
        stretch = read_stretch(
            self._kafka, Topics.EVENTS.name, since=born - _BEFORE, until=born + self._longest
        )
        async for record in stretch:
            if record.value is not None and needle in record.value:
                event = _decoded(record)
                if isinstance(event, CompletionRecorded) and event.completion_id == completion_id:
                    return Origin(event.tenant, event.run, event.rollout_id)
        return None


def _decoded(record: Record) -> object:
    try:
        return record.message()
    except MalformedMessage:
        return None
