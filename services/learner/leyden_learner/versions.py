"""The versions of a run: where it begins, and how a trained step becomes a version that others may serve.

Weights are where others read them before the transaction that names them; the transaction holds the step's
rollouts and the offsets to go on from; registering comes last and is repeated on resume.
"""

import asyncio
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import structlog

from leyden_learner.adapter_folder import name_base
from leyden_learner.archive import Archive
from leyden_learner.batching import Turns
from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore, FolderInUse
from leyden_learner.patience import Patience
from leyden_learner.phases import Phases
from leyden_learner.ports import TrainingPolicy
from leyden_learner.registry import Registration, RegistryClient, RegistryUnavailable, Version
from leyden_learner.repository import Checkpoint, CheckpointRepository
from leyden_learner.settings import LearnerSettings
from leyden_learner.step_record import write_step_record
from leyden_learner.torch_thread import TorchThread
from leyden_platform.artifacts import artifact_digest, verify_artifact
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.objects import ArtifactCache, StoreFailed
from leyden_schemas import WeightsKind, cause_id

log = structlog.get_logger(__name__)


class ArtifactChanged(RuntimeError):
    """The weights on disk are not those that were recorded."""


class BaseUnknown(RuntimeError):
    """Adapters are to be published over a version that nobody wrote down."""


class Versions:
    """Saves, commits and registers the checkpoints of one policy and run.

    ``newest`` is the registry's number of the weights in training, ``folder`` where they lie, ``step`` the
    one that made them, 0 before the run's first, ``base`` where the full weights are that the run began with.
    A run that began with an adapter has that one's base.
    """

    newest: int
    step: int
    folder: Path
    base: Path

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        repository: CheckpointRepository,
        registry: RegistryClient,
        store: CheckpointStore,
        archive: Archive,
        cache: ArtifactCache,
        patience: Patience,
        phases: Phases,
        on_torch: TorchThread,
    ) -> None:
        self._settings, self._repository, self._registry = settings, repository, registry
        self._store, self._archive, self._cache = store, archive, cache
        self._patience, self._phases, self._on_torch = patience, phases, on_torch
        self._base_artifact = ""
        self._base_version: int | None = None

    async def last(self) -> Checkpoint | None:
        """The newest committed checkpoint, once this is the only learner in the folder."""
        await self._patience("checkpoint folder", self._acquire, FolderInUse)
        newest = await self._patience("database", self._repository.newest, DatabaseUnreachable)
        return newest[0] if newest else None

    async def start(self) -> None:
        """Begin with the registry's newest version."""
        version, base = await self._patience(
            "first version",
            self._pinned_latest,
            RegistryUnavailable,
            deadline_s=self._settings.start_timeout_s,
        )
        self.newest, self.step, self.folder = version.version, 0, await self._verified(version)
        self.base = self.folder if base is version else await self._verified(base)
        self._base_artifact, self._base_version = base.artifact, base.version

    async def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a committed step, registering it if the crash came before that."""
        folder = await self._patience(
            "artifact store",
            lambda: self._archive.folder(checkpoint.artifact, checkpoint.digest),
            StoreFailed,
        )
        await self._check(folder, checkpoint.digest, checkpoint.kind)
        self.step, self.folder, self.base = checkpoint.step, folder, await self._fetch(checkpoint.base, None)
        self._base_artifact, self._base_version = checkpoint.base, checkpoint.base_version
        if self._settings.published_kind is WeightsKind.LORA and self._base_version is None:
            raise BaseUnknown(
                f"step {checkpoint.step} does not say which version its run began with, because an older "
                "release wrote it; set LEYDEN_LEARNER_PUBLISH=merged, or begin a new LEYDEN_LEARNER_RUN"
            )
        if checkpoint.version is None:
            await self._register(checkpoint)
        else:
            self.newest = checkpoint.version
        log.info("resumed", step=checkpoint.step, version=self.newest, offsets=checkpoint.offsets)

    async def keep(
        self,
        trainer: TrainingPolicy,
        measured: Mapping[str, float],
        rollout_ids: Collection[UUID],
        offsets: Mapping[int, int],
        turns: Turns,
    ) -> None:
        """Save, commit and register the step just trained on these rollouts. Raises ``NonFiniteWeights``."""
        settings, step = self._settings, trainer.step
        made = Checkpoint(
            step=step,
            artifact="",
            digest="",
            base=self._base_artifact,
            base_version=self._base_version,
            kind=settings.published_kind,
            parent=self.newest,
            version_id=cause_id("version", settings.policy, settings.run, step),
            offsets=offsets,
            turns=turns,
            metrics={name: value for name, value in measured.items() if math.isfinite(value)},
        )
        with self._phases("checkpoint"):
            path = await self._patience(
                "checkpoint", lambda: self._write(trainer, made), CheckpointNotWritten
            )
            digest = await asyncio.to_thread(artifact_digest, path)
        with self._phases("upload"):
            artifact = await self._patience("artifact store", lambda: self._archive.keep(path), StoreFailed)
        checkpoint = replace(made, artifact=artifact, digest=digest)
        with self._phases("commit"):
            await self._patience(
                "database", lambda: self._repository.commit(checkpoint, rollout_ids), DatabaseUnreachable
            )
        self.step, self.folder = step, path
        with self._phases("register"):
            await self._register(checkpoint)

    async def _acquire(self) -> None:
        self._store.acquire()

    async def _verified(self, version: Version) -> Path:
        folder = await self._fetch(version.artifact, version.digest)
        await self._check(folder, version.digest, version.kind)
        return folder

    async def _check(self, folder: Path, digest: str, kind: WeightsKind) -> None:
        found = await asyncio.to_thread(verify_artifact, folder, kind)
        if found != digest:
            raise ArtifactChanged(f"{folder} has digest {found}, recorded was {digest}; restore its files")

    async def _pinned_latest(self) -> tuple[Version, Version]:
        """What the run begins with, and the full weights of that; both stay for as long as the run.

        Its KL refers to the full weights, and its adapters lie over them.
        """
        policy, holder = self._settings.policy, f"run:{self._settings.run}"
        version = base = await self._registry.latest(policy)
        await self._registry.pin(policy, version.version, holder, "the run began with it")
        if version.kind is WeightsKind.LORA and version.parent is not None:
            base = await self._registry.version(policy, version.parent)
            await self._registry.pin(policy, base.version, holder, "the adapters of the run lie over it")
        return version, base

    async def _fetch(self, artifact: str, digest: str | None) -> Path:
        return await self._patience(
            "artifact store", lambda: self._cache.folder(artifact, digest), StoreFailed
        )

    async def _write(self, trainer: TrainingPolicy, made: Checkpoint) -> Path:
        def save(folder: Path) -> None:
            trainer.save(folder)
            if made.kind is WeightsKind.LORA:
                name_base(folder, made.base)
            write_step_record(folder, made, policy=self._settings.policy, run=self._settings.run)

        described_by = self.base if made.kind is WeightsKind.FULL else None
        return await self._on_torch(lambda: self._store.write(trainer.step, described_by, save))

    async def _register(self, checkpoint: Checkpoint) -> None:
        settings = self._settings
        whole = checkpoint.kind is WeightsKind.FULL
        registration = Registration(
            version_id=checkpoint.version_id,
            artifact=checkpoint.artifact,
            kind=checkpoint.kind,
            parent=checkpoint.parent if whole else checkpoint.base_version,
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
