"""Which policies exist: a table folded from the compacted models topic, and the component that follows it."""

import asyncio
import contextlib
from typing import Any

import structlog

from leyden_platform.messaging import LogReader, Unavailable
from leyden_platform.settings import KafkaSettings
from leyden_schemas import AliasMoved, MalformedMessage, ModelPublished, Topics, parse_policy_ref

log = structlog.get_logger(__name__)


class PolicyTable:
    """Versions and aliases by policy."""

    def __init__(self) -> None:
        self._versions: dict[str, set[int]] = {}
        self._aliases: dict[str, set[str]] = {}

    def apply(self, message: ModelPublished | AliasMoved) -> None:
        """Take in one announcement; repeats change nothing."""
        match message:
            case ModelPublished(policy=policy, version=version):
                self._versions.setdefault(policy, set()).add(version)
            case AliasMoved(policy=policy, alias=alias):
                self._aliases.setdefault(policy, set()).add(alias)

    def knows(self, ref: str) -> bool:
        """Whether ``policy`` has a version, ``policy@n`` that version, ``policy#alias`` that alias."""
        policy, part = parse_policy_ref(ref)
        match part:
            case int(version):
                return version in self._versions.get(policy, ())
            case str(alias):
                return policy in self._versions and alias in self._aliases.get(policy, ())
            case _:
                return policy in self._versions

    def names(self) -> list[str]:
        """The policies that have a version."""
        return sorted(self._versions)


class Policies:
    """The table, kept up to date; a ``Component``.

    An unknown policy may simply not have been announced yet, so the first task that names one waits up to
    ``patience_s``; until ``memory_s`` later, tasks that name the same one are told at once.
    """

    def __init__(self, settings: KafkaSettings, *, patience_s: float = 5.0, memory_s: float = 60.0) -> None:
        self.name = "policies"
        self.table = PolicyTable()
        self._settings, self._patience_s, self._memory_s = settings, patience_s, memory_s
        self._caught_up = asyncio.Event()
        self._changed = asyncio.Condition()
        self._given_up: dict[str, float] = {}

    def not_ready(self) -> str | None:
        """Ready once the topic was read to where it ended at the start."""
        return None if self._caught_up.is_set() else f"reading {Topics.MODELS.name}"

    async def run(self, stop: asyncio.Event) -> None:
        """Read the topic to its end, then follow it."""
        async with LogReader(self._settings, Topics.MODELS.name) as reader:
            ends = await reader.end_offsets()
            while not stop.is_set():
                records = await reader.poll(timeout_s=0.2)
                await self._take_in(records)
                if not self._caught_up.is_set():
                    positions = await reader.positions()
                    if all(positions[partition] >= end for partition, end in ends.items()):
                        log.info("policies_known", policies=self.table.names())
                        self._caught_up.set()

    async def _take_in(self, records: list[Any]) -> None:
        for record in records:
            try:
                self.table.apply(record.message())
            except MalformedMessage as error:
                log.warning("model_message_ignored", where=record.where, error=str(error))
        if records:
            async with self._changed:
                self._changed.notify_all()

    async def known(self, ref: str) -> bool:
        """Whether ``ref`` exists; the first time it does not, after waiting for its announcement.

        Raises ``Unavailable`` until the topic was read to its end.
        """
        if not self._caught_up.is_set():
            raise Unavailable(f"still reading {Topics.MODELS.name}")
        now = asyncio.get_running_loop().time()
        if self.table.knows(ref) or now - self._given_up.get(ref, -self._memory_s) < self._memory_s:
            return self.table.knows(ref)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s), self._changed:
                await self._changed.wait_for(lambda: self.table.knows(ref))
        if self.table.knows(ref):
            return True
        if len(self._given_up) > 10_000:
            self._given_up.clear()
        self._given_up[ref] = asyncio.get_running_loop().time()
        return False
