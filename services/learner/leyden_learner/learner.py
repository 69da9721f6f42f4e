"""The loop: read samples, train a step, keep it. One policy, one step at a time.

The order makes a crash harmless at any point: what was not committed is read again and trained again, to the
same weights.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import structlog

from leyden_learner import metrics
from leyden_learner.admission import Admission, Drop
from leyden_learner.archive import Archive
from leyden_learner.batching import SampleBuffer, Waiting
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.health import CollapseLimits, CollapseWatch, NonFiniteWeights, Unhealthy
from leyden_learner.intake import Intake
from leyden_learner.outcome import Ruined, Skipped, Trained
from leyden_learner.pacing import room
from leyden_learner.patience import Patience, Stopped
from leyden_learner.phases import Phases
from leyden_learner.ports import TrainerFactory, TrainingPolicy
from leyden_learner.reading import OpenReader, Reading
from leyden_learner.registry import RegistryClient
from leyden_learner.repository import CheckpointRepository
from leyden_learner.retention import Retention
from leyden_learner.settings import LearnerSettings
from leyden_learner.sinks import Sinks
from leyden_learner.torch_thread import TorchThread
from leyden_learner.versions import Versions
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.messaging import Unavailable
from leyden_platform.objects import ArtifactCache
from leyden_platform.telemetry import span

log = structlog.get_logger(__name__)

_POLL_S = 0.5


class Learner:
    """A component that trains one policy until it is stopped or has made its steps."""

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        migrate: Callable[[], Awaitable[None]],
        repository: CheckpointRepository,
        registry: RegistryClient,
        store: CheckpointStore,
        archive: Archive,
        cache: ArtifactCache,
        retention: Retention,
        open_reader: OpenReader,
        trainers: TrainerFactory,
        resources: AbstractAsyncContextManager[object],
        sinks: Sinks,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = "learner"
        self._settings, self._migrate, self._repository = settings, migrate, repository
        self._registry, self._store, self._retention = registry, store, retention
        self._open_reader, self._trainers, self._resources = open_reader, trainers, resources
        self._sinks = sinks
        self._on_torch = TorchThread()
        self._patience = Patience(settings.policy)
        self._phases = Phases(settings.policy, monotonic)
        self._versions = Versions(
            settings,
            repository=repository,
            registry=registry,
            store=store,
            archive=archive,
            cache=cache,
            patience=self._patience,
            phases=self._phases,
            on_torch=self._on_torch,
        )
        self._watch = CollapseWatch(
            CollapseLimits(settings.min_entropy, settings.max_reward_drop, settings.collapse_window)
        )
        self._step_rollouts = settings.batch_rule.rollouts or settings.min_rollouts
        self._skips = 0
        self._began = False
        self._paused: str | None = None
        self._stop = asyncio.Event()
        self._trainer: TrainingPolicy
        self._buffer: SampleBuffer
        self._intake: Intake

    def not_ready(self) -> str | None:
        """What it waits for, or why it paused."""
        return self._paused or self._patience.waiting_for or (None if self._began else "starting")

    async def run(self, stop: asyncio.Event) -> None:
        """Train until ``stop``; a step in hand is finished, committed and, if possible, registered."""
        self._stop = self._patience.stop = stop
        try:
            async with self._resources:
                await self._begin()
                while not (stop.is_set() or self._done()):
                    await self._patience("samples", self._follow, Unavailable)
                await stop.wait()
        except Stopped as stopped:
            log.info("stopped_waiting", what=str(stopped))
        finally:
            self._on_torch.close()
            await asyncio.to_thread(self._sinks.close)

    async def _begin(self) -> None:
        """From the newest committed step, or the registry's newest version and the beginning of the log."""
        await self._patience("database", self._migrate, DatabaseUnreachable)
        checkpoint = await self._versions.last()
        await (self._versions.resume(checkpoint) if checkpoint else self._versions.start())
        await self._load()
        self._buffer = SampleBuffer(self._settings.batch_rule, checkpoint.turns if checkpoint else None)
        self._intake = self._take_in_from(checkpoint.offsets if checkpoint else {})
        if checkpoint:
            self._sinks.offer(checkpoint.step, checkpoint.metrics, again=True)
        await self._retention.clean()
        self._show_progress()
        self._began = True
        log.info(
            "learner_ready",
            policy=self._settings.policy,
            run=self._settings.run,
            step=self._trainer.step,
            version=self._versions.newest,
        )

    def _take_in_from(self, positions: Mapping[int, int]) -> Intake:
        settings = self._settings
        admission = Admission(
            policy=settings.policy,
            tenant=settings.tenant,
            run=settings.run,
            max_staleness=settings.max_staleness,
            vocabulary=self._trainer.vocabulary,
            max_positions=self._trainer.max_positions,
        )
        return Intake(
            self._buffer,
            admission,
            share=settings.max_buffered_rollouts,
            repository=self._repository,
            patience=self._patience,
            newest=lambda: self._versions.newest,
            now_s=self._phases.now_s,
            positions=positions,
        )

    async def _follow(self) -> None:
        """Read and train until stopped, done or paused. Raises ``Unavailable`` when the log is away."""
        async with Reading(self._open_reader, self._intake) as reading:
            self._patience.waiting_for = None
            now_s = self._phases.now_s
            collecting_s, batch = now_s(), list[Waiting]()
            while not (self._stop.is_set() or self._done()):
                await reading.read(0 if batch else _POLL_S)
                self._show_room()
                if batch := self._buffer.step(now_s()):
                    self._phases.observe("collect", now_s() - collecting_s)
                    await self._step(batch)
                    collecting_s = now_s()

    async def _step(self, batch: Sequence[Waiting]) -> None:
        samples = [waiting.sample for waiting in batch]
        with span("learner.step", policy=self._settings.policy, step=self._trainer.step + 1):
            with self._phases("train"):
                outcome = await self._on_torch(lambda: self._trainer.advance(samples, self._versions.newest))
            metrics.observe_step(self._settings.policy, outcome.metrics)
            match outcome:
                case Skipped():
                    self._skip(outcome, batch)
                case Ruined():
                    await self._take_back(outcome, batch)
                case Trained():
                    if await self._kept(outcome, batch):
                        self._skips = 0
                        self._look_for_collapse(outcome.metrics)
                    else:
                        await self._take_back(Ruined(Unhealthy.NON_FINITE_WEIGHTS, outcome.metrics), batch)

    async def _kept(self, outcome: Trained, batch: Sequence[Waiting]) -> bool:
        """Whether the step became a version; that weights answer nothing finite is found in saving them."""
        try:
            await self._keep(outcome, batch)
        except NonFiniteWeights as error:
            log.error("step_not_saved", step=self._trainer.step, error=str(error))
            return False
        return True

    async def _take_back(self, outcome: Ruined, batch: Sequence[Waiting]) -> None:
        await self._load()
        self._skip(Skipped(outcome.reason, outcome.metrics), batch)

    async def _keep(self, outcome: Trained, batch: Sequence[Waiting]) -> None:
        """Make the step a version, and go on with what that has not made too old."""
        samples, sampled_for = [waiting.sample for waiting in batch], self._versions.newest
        await self._versions.keep(
            self._trainer,
            outcome.metrics,
            [sample.rollout_id for sample in samples],
            self._intake.low_watermark,
            self._buffer.turns,
        )
        metrics.observe_trained(self._settings.policy, outcome.metrics, samples, sampled_for)
        phases = {f"{name}_seconds": seconds for name, seconds in self._phases.last_s.items()}
        self._sinks.offer(self._trainer.step, outcome.metrics | phases)
        self._show_progress()
        log.info("step_trained", step=self._trainer.step, version=self._versions.newest, **outcome.metrics)
        self._intake.evict_stale()
        if not self._settings.batch_rule.rollouts:
            self._step_rollouts = len(batch)
        self._show_room()
        await self._retention()

    async def _load(self) -> None:
        """The trainer of the last version; also where a step has left weights that nobody can use."""
        versions, trainers = self._versions, self._trainers
        load = trainers.resume if versions.step else trainers.begin
        self._trainer = None  # type: ignore[assignment]  # so that its memory is free for the next
        self._trainer = await self._on_torch(lambda: load(versions.folder, versions.base))

    def _skip(self, outcome: Skipped, batch: Sequence[Waiting]) -> None:
        self._skips += 1
        metrics.SKIPPED.labels(self._settings.policy, outcome.reason).inc()
        log.error("step_skipped", reason=outcome.reason, in_a_row=self._skips, **outcome.metrics)
        for waiting in batch:
            self._intake.drop(Drop.UNHEALTHY_STEP, waiting.where)
        if self._skips >= self._settings.max_skips:
            self._pause(
                outcome.reason, f"after {self._skips} skipped steps in a row, the last for {outcome.reason}"
            )

    def _look_for_collapse(self, measured: Mapping[str, float]) -> None:
        reason = self._watch.see(entropy=measured["entropy"], reward=measured["reward_mean"])
        if reason:
            self._pause(
                reason, f"for {reason} at step {self._trainer.step}; its versions are in the registry"
            )

    def _pause(self, reason: Unhealthy, why: str) -> None:
        self._paused = f"paused {why}"
        metrics.PAUSED.labels(self._settings.policy).set(1)
        metrics.ROOM.labels(self._settings.policy).set(0)
        log.error("training_paused", reason=reason, remedy="look into the samples, then restart")

    def _done(self) -> bool:
        limit = self._settings.max_steps
        return self._paused is not None or (limit > 0 and self._trainer.step >= limit)

    def _show_progress(self) -> None:
        metrics.STEP.labels(self._settings.policy).set(self._trainer.step)
        metrics.VERSION.labels(self._settings.policy).set(self._versions.newest)

    def _show_room(self) -> None:
        settings = self._settings
        left = room(
            staleness=settings.max_staleness,
            step_rollouts=self._step_rollouts,
            backlog=sum(self._intake.backlog.values()),
        )
        metrics.ROOM.labels(settings.policy).set(0 if self._paused else left)
