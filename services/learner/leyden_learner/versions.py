"""The versions of a run: where it begins, and how a trained step becomes a version that others may serve.

Weights are on disk before the transaction that names them; the transaction holds the step's rollouts and the
offsets to go on from; registering comes last and is repeated on resume.
"""

import asyncio
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from uuid import UUID

import structlog

from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore, FolderInUse
from leyden_learner.patience import Patience
from leyden_learner.phases import Phases
from leyden_learner.ports import TrainingPolicy
from leyden_learner.registry import Registration, RegistryClient, RegistryUnavailable
from leyden_learner.repository import Checkpoint, CheckpointRepository
from leyden_learner.settings import LearnerSettings
from leyden_learner.torch_thread import TorchThread
from leyden_platform.artifacts import artifact_digest, verify_artifact
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.messaging import Unavailable
from leyden_schemas import cause_id

log = structlog.get_logger(__name__)

_PRUNE_WINDOW = 16


class ArtifactChanged(RuntimeError):
    """The weights on disk are not those that were recorded."""


class Versions:
    """Saves, commits, registers and prunes the checkpoints of one policy and run.

    ``newest`` is the registry's number of the weights in training, ``folder`` where they lie, ``base`` where
    those are that the run began with.
    """

    newest: int
    folder: Path
    base: Path

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        repository: CheckpointRepository,
        registry: RegistryClient,
        store: CheckpointStore,
        patience: Patience,
        phases: Phases,
        on_torch: TorchThread,
    ) -> None:
        self._settings, self._repository, self._registry = settings, repository, registry
        self._store, self._patience, self._phases, self._on_torch = store, patience, phases, on_torch

    async def last(self) -> Checkpoint | None:
        """The newest committed checkpoint, once this is the only learner in the folder."""
        await self._patience("checkpoint folder", self._acquire, FolderInUse)
        newest = await self._patience("database", self._repository.newest, DatabaseUnreachable)
        return newest[0] if newest else None

    async def start(self) -> None:
        """Begin with the registry's newest version."""
        version = await self._patience(
            "first version",
            lambda: self._registry.latest(self._settings.policy),
            RegistryUnavailable,
            deadline_s=self._settings.start_timeout_s,
        )
        await self._check(version.folder, version.digest)
        self.newest, self.folder, self.base = version.version, version.folder, version.folder

    async def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a committed step, registering it if the crash came before that."""
        await self._check(checkpoint.path, checkpoint.digest)
        self.folder, self.base = checkpoint.path, checkpoint.base
        if checkpoint.version is None:
            await self._register(checkpoint)
        else:
            self.newest = checkpoint.version
        log.info("resumed", step=checkpoint.step, version=self.newest, offsets=checkpoint.offsets)

    async def clean(self) -> None:
        """Delete what a crash left behind."""
        known = await self._patience("database", self._repository.paths, DatabaseUnreachable)
        if removed := await asyncio.to_thread(self._store.remove_unknown, known):
            log.info("unfinished_checkpoints_removed", folders=[folder.name for folder in removed])

    async def keep(
        self,
        trainer: TrainingPolicy,
        measured: Mapping[str, float],
        rollout_ids: Collection[UUID],
        offsets: Mapping[int, int],
    ) -> None:
        """Save, commit and register the step just trained on these rollouts."""
        settings, step = self._settings, trainer.step
        with self._phases("checkpoint"):
            path = await self._patience("checkpoint", lambda: self._write(trainer), CheckpointNotWritten)
            digest = await asyncio.to_thread(artifact_digest, path)
        checkpoint = Checkpoint(
            step=step,
            path=path,
            digest=digest,
            base=self.base,
            parent=self.newest,
            version_id=cause_id("version", settings.policy, settings.run, step),
            offsets=offsets,
            metrics={name: value for name, value in measured.items() if math.isfinite(value)},
        )
        with self._phases("commit"):
            await self._patience(
                "database", lambda: self._repository.commit(checkpoint, rollout_ids), DatabaseUnreachable
            )
        self.folder = path
        with self._phases("register"):
            await self._register(checkpoint)

    async def prune(self) -> None:
        """Delete what the retention settings do not keep. What is away is left for the next time."""
        settings = self._settings
        window = max(settings.keep_trainer_states, settings.keep_weights) + _PRUNE_WINDOW
        try:
            newest = await self._repository.newest(window)
            named = (
                set((await self._registry.aliases(settings.policy)).values())
                if settings.keep_weights
                else set()
            )
        except Unavailable as error:
            log.warning("prune_postponed", error=str(error))
            return
        await asyncio.to_thread(
            self._store.prune,
            [checkpoint.path for checkpoint in newest],
            trainer_states=settings.keep_trainer_states,
            weights=settings.keep_weights,
            keep={checkpoint.path for checkpoint in newest if checkpoint.version in named} | {self.base},
        )

    async def _acquire(self) -> None:
        self._store.acquire()

    async def _check(self, folder: Path, digest: str) -> None:
        found = await asyncio.to_thread(verify_artifact, folder)
        if found != digest:
            raise ArtifactChanged(f"{folder} has digest {found}, recorded was {digest}; restore its files")

    async def _write(self, trainer: TrainingPolicy) -> Path:
        return await self._on_torch(lambda: self._store.write(trainer.step, self.folder, trainer.save))

    async def _register(self, checkpoint: Checkpoint) -> None:
        settings = self._settings
        registration = Registration(
            version_id=checkpoint.version_id,
            artifact=checkpoint.path.as_uri(),
            parent=checkpoint.parent,
            step=checkpoint.step,
            run=settings.run,
            tenant=settings.tenant,
            metrics=checkpoint.metrics,
            aliases=list(settings.aliases),
        )
        version = await self._patience(
            "registry", lambda: self._registry.register(settings.policy, registration), RegistryUnavailable
        )
        await self._patience(
            "database", lambda: self._repository.set_version(checkpoint.step, version), DatabaseUnreachable
        )
        self.newest = version
