"""Which old checkpoints go. Nothing is deleted that is served, pinned, or needed to go on.

The registry decides, in a transaction that a promotion cannot overtake: a version that it retired is named by
no alias and will not be. Only then, and only when no server has it loaded, are its files deleted. A pass that
is interrupted is made up for by the next, for what exists is listed and not remembered.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from leyden_learner import metrics
from leyden_learner.archive import Archive
from leyden_learner.registry import RegistryClient, RegistryRefused
from leyden_learner.repository import Checkpoint, CheckpointRepository
from leyden_learner.settings import LearnerSettings
from leyden_platform.messaging import Unavailable
from leyden_platform.objects import StoreFailed
from leyden_schemas import policy_at

log = structlog.get_logger(__name__)

_AT_A_TIME = 16


class Retention:
    """Deletes what the settings do not keep, a pass after each step."""

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        repository: CheckpointRepository,
        registry: RegistryClient,
        archive: Archive,
        loaded: Callable[[], Awaitable[set[str]]],
    ) -> None:
        self._settings, self._repository, self._registry = settings, repository, registry
        self._archive, self._loaded = archive, loaded
        self._stripped: set[str] = set()

    async def __call__(self) -> None:
        """One pass; what is away, or does not let itself be deleted, is left for the next one."""
        with self._for_the_next_pass():
            known = await self._sweep()
            await self._strip(known[self._settings.keep_trainer_states :])
            if self._settings.keep_weights:
                await self._drop(known[self._settings.keep_weights :])

    async def clean(self) -> None:
        """Only delete what a crash left behind; call it before the first step."""
        if self._settings.keep_weights and not self._settings.servers:
            log.warning(
                "retention_asks_no_server",
                keep_weights=self._settings.keep_weights,
                remedy="name the servers in LEYDEN_LEARNER_SERVERS, so that what they have loaded stays",
            )
        with self._for_the_next_pass():
            await self._sweep()

    @contextmanager
    def _for_the_next_pass(self) -> Iterator[None]:
        try:
            yield
        except (Unavailable, RegistryRefused, StoreFailed, OSError) as error:
            self._count("postponed")
            log.warning("retention_postponed", error=str(error))

    async def _strip(self, old: Sequence[Checkpoint]) -> None:
        """Only the newest checkpoints are gone on from. What many passes left is made up for in several."""
        for checkpoint in [each for each in old if each.name not in self._stripped][:_AT_A_TIME]:
            await self._archive.delete_trainer_state(checkpoint.name)
            self._stripped.add(checkpoint.name)

    async def _sweep(self) -> list[Checkpoint]:
        """Delete what a crash left behind; the committed checkpoints that exist, newest first."""
        names = await self._archive.names()
        known = await self._repository.among([self._archive.uri(name) for name in names])
        unknown = set(names) - {checkpoint.name for checkpoint in known}
        if removed := await self._archive.delete_unknown(sorted(unknown)):
            metrics.RETENTION.labels(self._settings.policy, "unfinished").inc(len(removed))
            log.info("unfinished_checkpoints_removed", names=removed)
        return known

    async def _drop(self, old: Sequence[Checkpoint]) -> None:
        candidates = [checkpoint for checkpoint in old if checkpoint.version is not None]
        retired = [
            checkpoint for checkpoint in await self._unused(candidates) if await self._retire(checkpoint)
        ]
        for checkpoint in await self._unused(retired):
            await self._archive.delete(checkpoint.name)
            self._count("deleted")
            log.info("checkpoint_deleted", step=checkpoint.step, version=checkpoint.version)

    async def _unused(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        """Those that no server has loaded right now."""
        if not checkpoints:
            return []
        loaded = await self._loaded()
        unused = [checkpoint for checkpoint in checkpoints if self._name(checkpoint) not in loaded]
        for _ in range(len(checkpoints) - len(unused)):
            self._count("served")
        return unused

    async def _retire(self, checkpoint: Checkpoint) -> bool:
        settings, version = self._settings, checkpoint.version
        assert version is not None
        reason = f"not among the newest {settings.keep_weights} (LEYDEN_LEARNER_KEEP_WEIGHTS)"
        needed = await self._registry.retire(
            settings.policy, version, actor=f"run:{settings.run}", reason=reason
        )
        if needed:
            self._count(needed)
            log.debug("checkpoint_kept", step=checkpoint.step, version=version, needed=needed)
        return needed is None

    def _name(self, checkpoint: Checkpoint) -> str:
        return policy_at(self._settings.policy, checkpoint.version or 0)

    def _count(self, outcome: str) -> None:
        metrics.RETENTION.labels(self._settings.policy, outcome).inc()
