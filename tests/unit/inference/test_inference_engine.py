"""The engine's thread and its edge: retiring versions, failing, stopping."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden_inference.batch import Batch, BatchLimits, Sequence
from leyden_inference.engine import Engine, Generation, Update
from leyden_inference.errors import EngineStopped, QueueFull
from leyden_inference.loading import Loader
from leyden_inference.sampling import SamplingParams

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"
MODEL = Loader().load_folder(SEED)
NEVER: frozenset[int] = frozenset()
DEADLINE_S = 60.0


class Running:
    """An engine with its lifecycle in hand."""

    def __init__(self) -> None:
        self.engine, self.stop = Engine(BatchLimits(rows=2), max_queue=2), asyncio.Event()
        self.task = asyncio.create_task(self.engine.run(self.stop))

    async def end(self) -> None:
        """Ask it to stop and wait until it has."""
        self.stop.set()
        await asyncio.wait_for(self.task, DEADLINE_S)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    running = Running()
    await asyncio.sleep(0)
    yield running
    if not running.task.done():
        await running.end()


async def collect(generation: Generation) -> list[Update]:
    async with asyncio.timeout(DEADLINE_S):
        return [update async for update in generation]


async def test_a_retired_version_finishes_what_it_has(running: Running) -> None:
    engine = running.engine
    runner = engine.install("m@0", MODEL.decoder, NEVER)
    generation = engine.submit(runner, [5, 6], SamplingParams(max_tokens=20), stream=False)
    engine.retire(runner)
    (update,) = await collect(generation)
    assert (len(update.tokens), update.finished) == (20, "length")
    assert engine.open_sequences == 0


async def test_streamed_updates_add_up_to_the_whole(running: Running) -> None:
    runner = running.engine.install("m@0", MODEL.decoder, NEVER)
    params = SamplingParams(max_tokens=12, seed=4)
    (whole,) = await collect(running.engine.submit(runner, [5, 6], params, stream=False))
    parts = await collect(running.engine.submit(runner, [5, 6], params, stream=True))
    assert len(parts) > 1
    assert [token for part in parts for token in part.tokens] == whole.tokens
    assert [part.finished for part in parts[:-1]] == [None] * (len(parts) - 1)


async def test_stopping_finishes_what_is_in_hand(running: Running) -> None:
    runner = running.engine.install("m@0", MODEL.decoder, NEVER)
    generation = running.engine.submit(runner, [5], SamplingParams(max_tokens=30), choices=3, stream=False)
    await running.end()
    assert sorted(update.index for update in await collect(generation)) == [0, 1, 2]
    with pytest.raises(EngineStopped):
        running.engine.submit(runner, [5], SamplingParams(), stream=False)


async def test_the_queue_is_bounded(running: Running) -> None:
    runner = running.engine.install("m@0", MODEL.decoder, NEVER)
    full = running.engine.submit(runner, [5], SamplingParams(max_tokens=200), choices=4, stream=False)
    with full, pytest.raises(QueueFull):
        running.engine.submit(runner, [5], SamplingParams(), stream=False)
    async with asyncio.timeout(DEADLINE_S):
        while running.engine.open_sequences:  # noqa: ASYNC110 - freed by another thread
            await asyncio.sleep(0.01)
    await collect(running.engine.submit(runner, [5], SamplingParams(max_tokens=1), stream=False))


async def test_a_failure_of_the_thread_fails_requests_and_service(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(_batch: Batch) -> list[Sequence]:
        raise ArithmeticError("broken kernel")

    monkeypatch.setattr(Batch, "step", explode)
    runner = running.engine.install("m@0", MODEL.decoder, NEVER)
    generation = running.engine.submit(runner, [5], SamplingParams(), stream=False)
    with pytest.raises(EngineStopped):
        await collect(generation)
    with pytest.raises(ArithmeticError, match="broken kernel"):
        await asyncio.wait_for(running.task, DEADLINE_S)
    assert running.engine.not_ready() is not None
