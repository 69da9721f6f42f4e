"""Reading the log as it lies, record by record, to account for what the gateway claims to have put there."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from uuid import UUID

import msgspec

from leyden_platform.messaging import LogReader, Record
from leyden_platform.settings import KafkaSettings
from leyden_schemas import CompletionRecorded, Topics

_QUIET_S = 0.5
"""Everything was seen and nothing new came for this long: the end. End offsets are not trusted."""
_MISSING_QUIET_S = 10.0
"""The same while something is still missing."""
_READ_S = 600.0
_SAMPLED_FULLY = 500
"""Every so many-th record is decoded whole and looked at."""


class _Brief(msgspec.Struct):
    """What the accounting needs of a record; the rest is not decoded."""

    completion_id: str
    status: str = "ok"


@dataclass(frozen=True, slots=True)
class Found:
    """How often each completion that ended well is on the log, and what was wrong with those looked at."""

    times: Counter[str]
    unfit: list[str]


@dataclass(frozen=True, slots=True)
class EventLog:
    """The events topic of one broker. ``probe`` is the rollout that only waited for the gateway to start."""

    kafka: KafkaSettings
    probe: UUID

    async def completions(self, expected: Sequence[str], *, sampled: int) -> Found:
        """All completions on the log, once everything ``expected`` was seen or has had its time to come.

        ``sampled`` is how many tokens each should hold.
        """
        found = Found(Counter(), [])
        wanted = set(expected)
        async for record in self._records(lambda: wanted <= found.times.keys()):
            brief = msgspec.json.decode(record.value or b"{}", type=_Brief)
            if brief.status != "ok":
                continue
            if len(found.times) % _SAMPLED_FULLY == 0 and (why := unfit(record.message(), sampled)):
                found.unfit.append(f"{brief.completion_id}: {why}")
            found.times[brief.completion_id] += 1
        return found

    async def of(self, rollouts: Sequence[UUID], expected: int) -> list[Record]:
        """The records of some rollouts, in order of the log."""
        keys = {str(rollout_id).encode() for rollout_id in rollouts}
        found: list[Record] = []
        records = self._records(lambda: len(found) >= expected)
        async for record in records:
            found += [record] if record.key in keys else []
        return found

    async def _records(self, complete: Callable[[], bool]) -> AsyncIterator[Record]:
        ignored = str(self.probe).encode()
        deadline = monotonic() + _READ_S
        async with LogReader(self.kafka, Topics.EVENTS.name) as reader:
            news = monotonic()
            while (now := monotonic()) < deadline and now - news < self._patience(complete):
                for record in await reader.poll(0.2, max_records=2000):
                    news = monotonic()
                    if record.key != ignored:
                        yield record

    @staticmethod
    def _patience(complete: Callable[[], bool]) -> float:
        return _QUIET_S if complete() else _MISSING_QUIET_S


def unfit(record: CompletionRecorded, sampled: int) -> str | None:
    """Why a record of the benchmark is not what the stub sampled, or None."""
    if record.untrainable:
        return f"untrainable: {record.untrainable}"
    if len(record.token_ids) != sampled or len(record.logprobs) != sampled:
        return (
            f"{len(record.token_ids)} ids and {len(record.logprobs)} log-probabilities for {sampled} tokens"
        )
    return None
