"""The loop: read samples, train a step, save, commit, register. One policy, one step at a time.

The order makes a crash harmless at any point. Weights are on disk before the transaction that names them; the
transaction holds the step's rollouts and the offsets to go on from; registering comes last and is repeated
on resume. What was not committed is read again and trained again, to the same weights.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from leyden_learner import metrics
from leyden_learner.admission import Admission, Drop
from leyden_learner.batching import BatchRule, SampleBuffer, Waiting
from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore, FolderInUse
from leyden_learner.health import CollapseLimits, CollapseWatch, Unhealthy
from leyden_learner.outcome import Skipped, Trained
from leyden_learner.patience import Stopped, patiently
from leyden_learner.registry import Registration, RegistryClient, RegistryUnavailable
from leyden_learner.repository import Checkpoint, CheckpointRepository
from leyden_learner.settings import LearnerSettings
from leyden_platform.artifacts import artifact_digest, verify_artifact
from leyden_platform.database import DatabaseUnreachable
from leyden_platform.messaging import Record, Unavailable
from leyden_platform.telemetry import span
from leyden_schemas import MalformedMessage, TrainingSample, cause_id

log = structlog.get_logger(__name__)
T = TypeVar("T")

_POLL_S = 0.5
_MAX_POLLED = 500
_PRUNE_WINDOW = 16
_ELSEWHERE = {Drop.OTHER_POLICY, Drop.OTHER_TENANT, Drop.OTHER_RUN, Drop.ALREADY_TRAINED}


class ArtifactChanged(RuntimeError):
    """The weights on disk are not those that were recorded."""


class Reader(Protocol):
    """Where samples come from."""

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Record]:
        """What arrived within ``timeout_s``."""
        ...


class TrainingPolicy(Protocol):
    """The policy in training; ``leyden_learner.trainer.Trainer``."""

    step: int

    @property
    def vocabulary(self) -> int:
        """Token ids lie below this."""
        ...

    @property
    def max_positions(self) -> int:
        """Tokens of the longest row."""
        ...

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Trained | Skipped:
        """Train one step."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint's files."""
        ...


class TrainerFactory(Protocol):
    """Makes trainers; the implementation imports torch when called."""

    def begin(self, weights: Path, reference: Path) -> TrainingPolicy:
        """A fresh one over these weights."""
        ...

    def resume(self, checkpoint: Path, reference: Path) -> TrainingPolicy:
        """The one that saved this checkpoint."""
        ...


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
        open_reader: Callable[[Mapping[int, int]], AbstractAsyncContextManager[Reader]],
        trainers: TrainerFactory,
        resources: AbstractAsyncContextManager[object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = "learner"
        self._settings, self._migrate, self._repository = settings, migrate, repository
        self._registry, self._store = registry, store
        self._open_reader, self._trainers, self._resources = open_reader, trainers, resources
        self._monotonic = monotonic
        self._torch = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._buffer = SampleBuffer(
            BatchRule(settings.batch_rollouts, settings.min_rollouts, settings.batch_timeout_s)
        )
        self._watch = CollapseWatch(
            CollapseLimits(settings.min_entropy, settings.max_reward_drop, settings.collapse_window)
        )
        self._next: dict[int, int] = {}
        self._version = 0
        self._skips = 0
        self._began = False
        self._waiting_for: str | None = None
        self._paused: str | None = None
        self._stop = asyncio.Event()
        self._trainer: TrainingPolicy
        self._admission: Admission
        self._folder: Path
        self._base: Path

    def not_ready(self) -> str | None:
        """What it waits for, or why it paused."""
        return self._paused or self._waiting_for or (None if self._began else "starting")

    async def run(self, stop: asyncio.Event) -> None:
        """Train until ``stop``; a step in hand is finished, committed and, if possible, registered."""
        self._stop = stop
        try:
            async with self._resources:
                await self._begin()
                while not (stop.is_set() or self._done()):
                    await self._patiently("samples", self._follow, Unavailable)
                await stop.wait()
        except Stopped as stopped:
            log.info("stopped_waiting", what=str(stopped))
        finally:
            self._torch.shutdown(wait=False)

    # --- where to begin

    async def _begin(self) -> None:
        await self._patiently("checkpoint folder", self._acquire, FolderInUse)
        await self._patiently("database", self._migrate, DatabaseUnreachable)
        newest = await self._patiently("database", self._repository.newest, DatabaseUnreachable)
        await (self._resume(newest[0]) if newest else self._start())
        settings = self._settings
        self._admission = Admission(
            policy=settings.policy,
            tenant=settings.tenant,
            run=settings.run,
            max_staleness=settings.max_staleness,
            vocabulary=self._trainer.vocabulary,
            max_positions=self._trainer.max_positions,
        )
        await self._clean()
        self._show_progress()
        self._began = True
        log.info(
            "learner_ready",
            policy=settings.policy,
            run=settings.run,
            step=self._trainer.step,
            version=self._version,
        )

    async def _start(self) -> None:
        """From the registry's newest version and the beginning of the log."""
        version = await self._patiently(
            "first version",
            lambda: self._registry.latest(self._settings.policy),
            RegistryUnavailable,
            deadline_s=self._settings.start_timeout_s,
        )
        folder = version.folder
        await self._check(folder, version.digest)
        self._version, self._folder, self._base = version.version, folder, folder
        self._trainer = await self._on_torch(lambda: self._trainers.begin(folder, folder))

    async def _resume(self, checkpoint: Checkpoint) -> None:
        """From the newest committed step, registering it if the crash came before that."""
        await self._check(checkpoint.path, checkpoint.digest)
        self._folder, self._base, self._next = checkpoint.path, checkpoint.base, dict(checkpoint.offsets)
        self._trainer = await self._on_torch(lambda: self._trainers.resume(checkpoint.path, checkpoint.base))
        if checkpoint.version is None:
            await self._register(checkpoint)
        else:
            self._version = checkpoint.version
        log.info("resumed", step=checkpoint.step, version=self._version, offsets=self._next)

    async def _check(self, folder: Path, digest: str) -> None:
        found = await asyncio.to_thread(verify_artifact, folder)
        if found != digest:
            raise ArtifactChanged(f"{folder} has digest {found}, recorded was {digest}; restore its files")

    async def _acquire(self) -> None:
        self._store.acquire()

    async def _clean(self) -> None:
        known = await self._patiently("database", self._repository.paths, DatabaseUnreachable)
        if removed := await asyncio.to_thread(self._store.remove_unknown, known):
            log.info("unfinished_checkpoints_removed", folders=[folder.name for folder in removed])

    # --- samples

    async def _follow(self) -> None:
        """Read and train until stopped, done or paused. Raises ``Unavailable`` when the log is away."""
        async with self._open_reader(self._next) as reader:
            self._wait_for(None)
            collecting_s = self._monotonic()
            while not (self._stop.is_set() or self._done()):
                room = self._settings.max_buffered_rollouts - len(self._buffer)
                if room > 0:
                    await self._take_in(await reader.poll(_POLL_S, max_records=min(room, _MAX_POLLED)))
                if count := self._buffer.ready(self._monotonic()):
                    self._observe("collect", self._monotonic() - collecting_s)
                    await self._step(self._buffer.take(count))
                    collecting_s = self._monotonic()

    async def _take_in(self, records: Sequence[Record]) -> None:
        candidates = [
            (record, sample) for record in records if (sample := self._admitted(record)) is not None
        ]
        trained = await self._trained([sample for _, sample in candidates])
        for record, sample in candidates:
            waiting = Waiting(sample, record.partition.number, record.offset, self._monotonic())
            if sample.rollout_id in trained:
                self._drop(Drop.ALREADY_TRAINED, record.where)
            elif not self._buffer.add(waiting):
                self._drop(Drop.DUPLICATE, record.where)
        for record in records:
            self._next[record.partition.number] = record.offset + 1
        metrics.READ.labels(self._settings.policy).inc(len(records))
        metrics.BUFFERED.labels(self._settings.policy).set(len(self._buffer))

    def _admitted(self, record: Record) -> TrainingSample | None:
        try:
            sample: TrainingSample = record.message()
        except MalformedMessage as error:
            self._drop(Drop.MALFORMED, record.where, error=str(error))
            return None
        if reason := self._admission.refuses(sample, self._version):
            self._drop(reason, record.where, rollout_id=str(sample.rollout_id))
            return None
        return sample

    async def _trained(self, samples: Sequence[TrainingSample]) -> set[object]:
        if not samples:
            return set()
        rollout_ids = {sample.rollout_id for sample in samples}
        return set(
            await self._patiently(
                "database", lambda: self._repository.trained_among(rollout_ids), DatabaseUnreachable
            )
        )

    def _drop(self, reason: Drop, where: str, **details: str) -> None:
        metrics.DROPPED.labels(self._settings.policy, reason).inc()
        (log.debug if reason in _ELSEWHERE else log.warning)(
            "sample_dropped", reason=reason, where=where, **details
        )

    # --- a step

    async def _step(self, batch: Sequence[Waiting]) -> None:
        samples = [waiting.sample for waiting in batch]
        with span("learner.step", policy=self._settings.policy, step=self._trainer.step + 1):
            with self._phase("train"):
                outcome = await self._on_torch(lambda: self._trainer.advance(samples, self._version))
            metrics.observe_step(self._settings.policy, outcome.metrics)
            match outcome:
                case Skipped():
                    self._skip(outcome, batch)
                case Trained():
                    self._skips = 0
                    await self._keep(outcome, samples)
                    self._look_for_collapse(outcome.metrics)

    def _skip(self, outcome: Skipped, batch: Sequence[Waiting]) -> None:
        policy = self._settings.policy
        self._skips += 1
        metrics.SKIPPED.labels(policy, outcome.reason).inc()
        log.error("step_skipped", reason=outcome.reason, in_a_row=self._skips, **outcome.metrics)
        for waiting in batch:
            self._drop(Drop.UNHEALTHY_STEP, f"{waiting.partition}@{waiting.offset}")
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
        log.error("training_paused", reason=reason, remedy="look into the samples, then restart")

    async def _keep(self, outcome: Trained, samples: Sequence[TrainingSample]) -> None:
        """Save, commit and register the step just trained."""
        settings, step = self._settings, self._trainer.step
        with self._phase("checkpoint"):
            path = await self._patiently("checkpoint", self._write, CheckpointNotWritten)
            digest = await asyncio.to_thread(artifact_digest, path)
        checkpoint = Checkpoint(
            step=step,
            path=path,
            digest=digest,
            base=self._base,
            parent=self._version,
            version_id=cause_id("version", settings.policy, settings.run, step),
            offsets=self._buffer.low_watermark(self._next),
            metrics={name: value for name, value in outcome.metrics.items() if math.isfinite(value)},
        )
        rollout_ids = [sample.rollout_id for sample in samples]
        with self._phase("commit"):
            await self._patiently(
                "database", lambda: self._repository.commit(checkpoint, rollout_ids), DatabaseUnreachable
            )
        self._folder = path
        self._count(outcome, samples)
        with self._phase("register"):
            await self._register(checkpoint)
        self._show_progress()
        log.info("step_trained", step=step, version=self._version, **outcome.metrics)
        self._evict_stale()
        await self._prune()

    async def _write(self) -> Path:
        return await self._on_torch(
            lambda: self._store.write(self._trainer.step, self._folder, self._trainer.save)
        )

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
        version = await self._patiently(
            "registry", lambda: self._registry.register(settings.policy, registration), RegistryUnavailable
        )
        await self._patiently(
            "database", lambda: self._repository.set_version(checkpoint.step, version), DatabaseUnreachable
        )
        self._version = version

    def _evict_stale(self) -> None:
        gone = self._buffer.evict(lambda sample: self._admission.too_old(sample, self._version) is not None)
        for waiting in gone:
            self._drop(Drop.TOO_STALE, f"{waiting.partition}@{waiting.offset}")
        metrics.BUFFERED.labels(self._settings.policy).set(len(self._buffer))

    async def _prune(self) -> None:
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
            keep={checkpoint.path for checkpoint in newest if checkpoint.version in named} | {self._base},
        )

    # --- small things

    def _done(self) -> bool:
        limit = self._settings.max_steps
        return self._paused is not None or (limit > 0 and self._trainer.step >= limit)

    def _count(self, outcome: Trained, samples: Sequence[TrainingSample]) -> None:
        policy = self._settings.policy
        metrics.ROLLOUTS.labels(policy).inc(len(samples))
        metrics.TOKENS.labels(policy, "sampled").inc(outcome.metrics["sampled_tokens"])
        metrics.TOKENS.labels(policy, "input").inc(outcome.metrics["input_tokens"])
        for sample in samples:
            metrics.STALENESS.labels(policy).observe(self._version - sample.oldest_version)

    def _show_progress(self) -> None:
        metrics.STEP.labels(self._settings.policy).set(self._trainer.step)
        metrics.VERSION.labels(self._settings.policy).set(self._version)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started_s = self._monotonic()
        yield
        self._observe(name, self._monotonic() - started_s)

    def _observe(self, phase: str, seconds: float) -> None:
        metrics.PHASE.labels(self._settings.policy, phase).observe(seconds)

    async def _on_torch(self, work: Callable[[], T]) -> T:
        """Run in the one thread that touches torch."""
        return await asyncio.get_running_loop().run_in_executor(self._torch, work)

    async def _patiently(
        self,
        what: str,
        attempt: Callable[[], Awaitable[T]],
        on: type[Exception],
        *,
        deadline_s: float | None = None,
    ) -> T:
        def failed(why: str | None) -> None:
            self._wait_for(why)
            if why:
                metrics.RETRIES.labels(self._settings.policy, what).inc()

        return await patiently(what, attempt, on=(on,), stop=self._stop, failed=failed, deadline_s=deadline_s)

    def _wait_for(self, what: str | None) -> None:
        self._waiting_for = what
