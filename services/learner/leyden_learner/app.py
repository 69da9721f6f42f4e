"""The learner put together: the only place that knows which classes play which part."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import httpx

from leyden_learner.archive import Archive, FolderArchive, ObjectArchive
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.learner import Learner
from leyden_learner.ports import TrainerFactory, TrainingPolicy
from leyden_learner.rank_group import RankGroup, RankWatch, refuse_launchers
from leyden_learner.registry import RegistryClient
from leyden_learner.repository import SCHEMA, CheckpointRepository
from leyden_learner.retention import Retention
from leyden_learner.servers import loaded_versions
from leyden_learner.settings import LearnerSettings
from leyden_learner.sinks import open_sinks
from leyden_learner.verl_backend.factory import VerlTrainers
from leyden_platform.database import create_engine, migrate
from leyden_platform.messaging import LogReader
from leyden_platform.objects import ArtifactCache, ObjectFolder
from leyden_platform.service import Component


@dataclass(frozen=True, slots=True)
class TorchTrainers:
    """Trainers on torch, which is imported in the thread that will use it, not with this module."""

    settings: LearnerSettings

    def begin(self, weights: Path, reference: Path) -> TrainingPolicy:
        """A fresh optimizer over these weights."""
        from leyden_learner.trainer import Trainer

        return Trainer.begin(self.settings, weights, reference)

    def resume(self, checkpoint: Path, reference: Path) -> TrainingPolicy:
        """The trainer that saved this checkpoint."""
        from leyden_learner.trainer import Trainer

        return Trainer.resume(self.settings, checkpoint, reference)


def trainers_of(settings: LearnerSettings) -> TrainerFactory:
    """Those of the backend that the settings name. Raises ``VerlMissing``."""
    match settings.backend:
        case "torch":
            return TorchTrainers(settings)
        case "verl":
            return VerlTrainers(settings)
        case never:
            assert_never(never)


async def build(settings: LearnerSettings) -> Sequence[Component]:
    """The learner, whose work is one sequence, and what watches over its ranks where it has several."""
    refuse_launchers(os.environ)
    if settings.data_parallel == 1:
        return [build_learner(settings)]
    group = RankGroup(settings)
    return [build_learner(settings, ranks=group), RankWatch(group)]


def make_archive(settings: LearnerSettings, store: CheckpointStore) -> Archive:
    """Where the settings want checkpoints kept."""
    if settings.checkpoint_url is None:
        return FolderArchive(store)
    root = ObjectFolder(f"{settings.checkpoint_url}/{settings.policy}/{settings.run}", settings.objects)
    return ObjectArchive(store, root, unfinished_after_s=settings.unfinished_after_s)


def build_learner(
    settings: LearnerSettings,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    ranks: RankGroup | None = None,
) -> Learner:
    """A learner over Kafka, Postgres, a folder and the registry; tests bring their own HTTP transport."""
    engine = create_engine(settings.database)
    http = httpx.AsyncClient(
        base_url=settings.registry_url, timeout=settings.registry_timeout_s, transport=transport
    )
    resources = AsyncExitStack()
    resources.push_async_callback(http.aclose)
    resources.push_async_callback(engine.dispose)
    store = CheckpointStore(settings.checkpoint_dir, settings.policy, settings.run)
    resources.callback(store.release)
    if ranks:
        resources.callback(ranks.close)

    repository = CheckpointRepository(engine, settings.policy, settings.run)
    registry = RegistryClient(http)
    archive = make_archive(settings, store)
    servers = httpx.AsyncClient(timeout=settings.registry_timeout_s)
    resources.push_async_callback(servers.aclose)

    def open_reader(positions: Mapping[int, int]) -> LogReader:
        return LogReader(settings.kafka, settings.samples_topic, positions)

    return Learner(
        settings,
        migrate=lambda: migrate(settings.database, "leyden_learner", SCHEMA),
        repository=repository,
        registry=registry,
        store=store,
        archive=archive,
        cache=ArtifactCache(settings.checkpoint_dir / ".cache", settings.objects),
        retention=Retention(
            settings,
            repository=repository,
            registry=registry,
            archive=archive,
            loaded=lambda: loaded_versions(servers, settings.servers),
        ),
        open_reader=open_reader,
        trainers=ranks or trainers_of(settings),
        resources=resources,
        sinks=open_sinks(settings),
    )
