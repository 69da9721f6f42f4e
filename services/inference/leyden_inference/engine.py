"""Continuous batching in one dedicated thread, with asyncio at its edge.

The event loop owns which versions take requests; the thread owns the batches. Commands travel to the thread
in order through a queue, changes travel back once a step. A retired version takes no new sequences and is
forgotten by the thread when its last one has ended, so replacing weights never drops a request.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import structlog
import torch

from leyden_inference import metrics
from leyden_inference.batch import Batch, BatchLimits, FinishReason, Sequence
from leyden_inference.decoder import Decoder
from leyden_inference.errors import EngineStopped, QueueFull
from leyden_inference.sampling import Draws, SamplingParams

log = structlog.get_logger(__name__)

TopLogprobs = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Update:
    """What was added to one choice since its last update; ``finished`` says that this is the last."""

    index: int
    tokens: list[int]
    logprobs: list[float]
    top: list[TopLogprobs]
    finished: FinishReason | None


@dataclass(slots=True, eq=False)
class Runner:
    """A version that the engine runs. The thread owns ``batch`` and ``retired``, the event loop the rest."""

    batch: Batch
    retired: bool = False
    open: int = 0
    active_at: float = field(default_factory=time.monotonic)

    def count(self, change: int) -> None:
        """Sequences were submitted or have ended."""
        self.open += change
        self.active_at = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since it last had a sequence; 0 while it has one."""
        return 0.0 if self.open else time.monotonic() - self.active_at


class Generation:
    """The completions of one request. Leaving its context abandons those that have not finished.

    Iterate to get updates: with ``stream`` after every step, else one a choice when it has finished.
    """

    def __init__(self, engine: "Engine", runner: Runner, sequences: list[Sequence]) -> None:
        self.runner = runner
        self._engine, self._sequences = engine, sequences
        self._sent = [0] * len(sequences)
        self._done: set[int] = set()
        self._updates: asyncio.Queue[Update | None] = asyncio.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        for sequence in self._sequences:
            self.abandon(sequence.index)

    def abandon(self, index: int) -> None:
        """Stop sampling a choice and free its slot; no further update of it arrives."""
        if index not in self._done:
            self._sequences[index].abandoned = True
            self._close(index)
            self._engine.nudge()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        """The next update. Raises ``EngineStopped`` when the engine ended first."""
        update = await self._updates.get()
        if update is None:
            raise StopAsyncIteration
        if update.finished == "error":
            raise EngineStopped("the model produced no valid probabilities, or the engine stopped")
        return update

    def deliver(self, sequence: Sequence, count: int, finished: FinishReason | None) -> None:
        """Called in the event loop: ``count`` tokens of ``sequence`` exist."""
        index = sequence.index
        if index in self._done:
            return
        sent, self._sent[index] = self._sent[index], count
        new = slice(sent, count)
        self._updates.put_nowait(
            Update(index, sequence.tokens[new], sequence.logprobs[new], sequence.top[new], finished)
        )
        if finished:
            self._close(index)

    def _close(self, index: int) -> None:
        self._done.add(index)
        if len(self._done) == len(self._sequences):
            self._updates.put_nowait(None)


class Engine:
    """Runs the batches of every version. A component."""

    def __init__(self, limits: BatchLimits, *, max_queue: int, threads: int = 1) -> None:
        self.name = "engine"
        self._limits, self._max_queue, self._threads = limits, max_queue, threads
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._runners: list[Runner] = []
        self._generations: dict[Sequence, Generation] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stopping = False

    # -- in the event loop

    @property
    def open_sequences(self) -> int:
        """Sequences that wait or run."""
        return len(self._generations)

    def not_ready(self) -> str | None:
        """Ready while the thread runs."""
        return None if self._ended is not None and not self._ended.done() else "the engine is not running"

    async def run(self, stop: asyncio.Event) -> None:
        """Run the thread until ``stop``, then let it finish what it holds. Raises what made it fail."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        threading.Thread(target=self._main, name="engine", daemon=True).start()
        stopping = asyncio.create_task(stop.wait())
        self._ended.add_done_callback(lambda _ended: stopping.cancel())
        try:
            await asyncio.wait([stopping])
            self._commands.put(self._begin_stop)
            await self._ended
        finally:
            stopping.cancel()
            self._commands.put(self._begin_stop)

    def install(self, name: str, decoder: Decoder, eos: frozenset[int]) -> Runner:
        """Make a version able to take sequences."""
        runner = Runner(Batch(decoder, eos, self._limits, name))
        self._commands.put(lambda: self._runners.append(runner))
        return runner

    def retire(self, runner: Runner) -> None:
        """Forget a version once its last sequence has ended. Nothing may be submitted to it any more."""

        def mark() -> None:
            runner.retired = True

        self._commands.put(mark)

    def submit(
        self, runner: Runner, prompt: list[int], params: SamplingParams, *, choices: int = 1, stream: bool
    ) -> Generation:
        """Queue completions of a prompt. Raises ``QueueFull``, or ``EngineStopped`` after the end."""
        if self._ended is None or self._ended.done():
            raise EngineStopped
        if len(self._generations) + choices > self._max_queue + self._limits.rows:
            metrics.REFUSED.labels("queue_full").inc()
            raise QueueFull(self._max_queue)
        sequences = []
        for index in range(choices):
            seed = None if params.seed is None else params.seed + index
            sequences.append(Sequence(prompt, replace(params, seed=seed), index, Draws(seed), stream))
        generation = Generation(self, runner, sequences)
        for sequence in sequences:
            self._generations[sequence] = generation
        runner.count(choices)
        self._commands.put(lambda: runner.batch.waiting.extend(sequences))
        return generation

    def nudge(self) -> None:
        """Make the thread look around, should it sleep."""
        self._commands.put(_nothing)

    def _deliver(self, changes: list[tuple[Sequence, int, FinishReason | None]]) -> None:
        for sequence, count, finished in changes:
            generation = self._generations[sequence]
            if finished:
                del self._generations[sequence]
                generation.runner.count(-1)
                metrics.FINISHED.labels(finished).inc()
            generation.deliver(sequence, count, finished)

    def _close(self, error: Exception | None) -> None:
        assert self._ended is not None
        for sequence in list(self._generations):
            self._deliver([(sequence, len(sequence.tokens), "error")])
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    # -- in the thread

    def _main(self) -> None:
        error: Exception | None = None
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                self._work()
        except Exception as failure:  # noqa: BLE001 - handed to the event loop, where it fails the service
            error = failure
        self._post([sequence for runner in self._runners for sequence in runner.batch.abandon_all()])
        self._call(self._close, error)

    def _work(self) -> None:
        while True:
            busy = [runner for runner in self._runners if not runner.batch.idle]
            if not busy and self._stopping:
                return
            self._obey(wait=not busy)
            for runner in self._runners:
                if not runner.batch.idle:
                    self._post(runner.batch.step())
            self._forget_retired()
            metrics.OCCUPANCY.set(sum(len(runner.batch.running) for runner in self._runners))
            metrics.QUEUE.set(sum(len(runner.batch.waiting) for runner in self._runners))

    def _forget_retired(self) -> None:
        for runner in [r for r in self._runners if r.retired and r.batch.idle]:
            self._runners.remove(runner)
            metrics.forget_model(runner.batch.name)

    def _obey(self, *, wait: bool) -> None:
        """Carry out every command there is, waiting for one when there is nothing else to do."""
        try:
            if wait:
                self._commands.get()()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            return

    def _begin_stop(self) -> None:
        self._stopping = True

    def _post(self, changed: list[Sequence]) -> None:
        changes = [(s, len(s.tokens), s.finished) for s in changed if s.stream or s.finished]
        if changes:
            self._call(self._deliver, changes)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.info("engine_loop_closed", at=time.time())


def _nothing() -> None:
    """A command that only wakes the thread."""


__all__ = ["BatchLimits", "Engine", "Generation", "Runner", "Update"]
