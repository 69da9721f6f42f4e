"""Isolated processes for user code: a call that hangs or kills its process costs nobody else anything.

A call that takes longer than ``PATIENCE_S`` gets a process to stand in for the one it holds, up to
``MOST_FOLD`` times as many as there are otherwise, for as long as calls wait; so slow calls do not hold up
quick ones.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import structlog
from pebble import ProcessExpired, ProcessPool

from leyden_platform.settings import CatalogueSettings
from leyden_reward import metrics
from leyden_reward.air.own_worker import OwnRule
from leyden_reward.rewards import worker
from leyden_reward.rewards.library import IN_WORKERS
from leyden_reward.rewards.verdict import Reason, Refused, Verdict
from leyden_schemas import Trajectory, encode

log = structlog.get_logger(__name__)
T = TypeVar("T")
PATIENCE_S = 1.0
MOST_FOLD = 4


class CatalogueError(RuntimeError):
    """A reward of the catalogue cannot be imported; the text names it and says why."""


class RewardWorkers:
    """Runs the catalogue's functions, and those of the library that need it, in processes. A ``Component``.

    ``count`` processes are kept; without functions of the user's they start when they are needed. Every one
    has a pool and pipes of its own: killing one cannot disturb what another is doing.
    """

    def __init__(
        self,
        catalogue: CatalogueSettings,
        *,
        count: int = 2,
        deadline_s: float = 30.0,
        startup_s: float = 60.0,
        max_reward: float = 1e6,
        memory_mb: int | None = None,
    ) -> None:
        self.name = "reward-workers"
        self._own = dict(catalogue.rewards)
        self._own_rules = {worker.RULE + name: target for name, target in catalogue.rules.items()}
        self.rules: Mapping[str, OwnRule] = {}
        self._targets = {**IN_WORKERS, **self._own, **self._own_rules}
        self._path = list(catalogue.path)
        self._count, self._memory_mb = count, memory_mb
        self._deadline_s, self._startup_s, self._max_reward = deadline_s, startup_s, max_reward
        self._deadlines_s: dict[str, float] = {}
        self._pools: list[ProcessPool] = []
        self._beginning = asyncio.Lock()
        self._warming = self._waiting = 0
        self._aside: set[asyncio.Task[None]] = set()
        self._free: asyncio.Queue[ProcessPool] = asyncio.Queue()
        self._calls: set[asyncio.Future[Any]] = set()
        self._stopping = False

    def __contains__(self, name: str) -> bool:
        """Whether the user has a function of this name; those of the library are run without being asked."""
        return name in self._own

    async def start(self) -> None:
        """Start the processes and import the functions, if there are any. Raises ``CatalogueError``."""
        if self._own or self._own_rules:
            await self._begin()

    async def _begin(self) -> None:
        if self._pools:
            return
        async with self._beginning:
            self._unless_stopping()
            if self._pools:
                return
            self._pools = [self._pool() for _ in range(self._count)]
            try:
                await self._check_imports()
            except CatalogueError:
                await self.stop()
                raise
            for pool in self._pools:
                self._free.put_nowait(pool)

    def _pool(self) -> ProcessPool:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["leyden_reward.rewards.worker"])
        return ProcessPool(
            max_workers=1,
            initializer=worker.initialise,
            initargs=(self._path, self._targets, self._memory_mb),
            context=context,
        )

    async def _check_imports(self) -> None:
        try:
            async with asyncio.timeout(self._startup_s):
                reports = await asyncio.gather(*map(_warmed, self._pools))
        except (TimeoutError, BrokenProcessPool):
            targets = ", ".join((self._own | self._own_rules).values())
            raise CatalogueError(
                f"importing {targets} took over {self._startup_s:g} s or ends the process; import less at "
                "the top of the module, or raise LEYDEN_REWARD_STARTUP_S"
            ) from None
        if reports[0].broken:
            problems = "; ".join(f"{name}: {why}" for name, why in reports[0].broken.items())
            raise CatalogueError(
                f"LEYDEN_CATALOGUE_REWARDS, _RULES: {problems} (looked in {self._path or 'sys.path'})"
            )
        self._deadlines_s = {name: min(own, self._deadline_s) for name, own in reports[0].deadlines_s.items()}
        self.rules = reports[0].rules

    async def stop(self) -> None:
        """End the processes, whatever they are doing; calls under way are cancelled."""
        self._stopping = True
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*map(_end, self._pools), *self._aside)
        self._pools = []

    def not_ready(self) -> str | None:
        """Ready once the functions are imported."""
        ready = self._pools or not (self._own or self._own_rules)
        return None if ready else "importing reward functions"

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the processes until ``stop``."""
        if not self._pools:
            await self.start()
        await stop.wait()
        await self.stop()

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """Run the function ``name`` in the next free process, for at most the deadline."""
        return await self._answer(name, trajectory, worker.grade, self._max_reward)

    async def measure(self, name: str, trajectory: Trajectory) -> list[float] | Refused:
        """Run the user's rule ``name`` like a reward function."""
        return await self._answer(worker.RULE + name, trajectory, worker.measure)

    async def _answer(
        self,
        name: str,
        trajectory: Trajectory,
        function: Callable[..., worker.Answered[T | Refused]],
        *arguments: Any,
    ) -> T | Refused:
        await self._begin()
        self._waiting += 1
        try:
            pool = await self._free.get()
        finally:
            self._waiting -= 1
        began, deadline_s = time.monotonic(), self._deadlines_s.get(name, self._deadline_s)
        try:
            pool = self._working(pool)
            answered = await self._call(pool, deadline_s, function, name, encode(trajectory), *arguments)
            if answered.spent and not self._stopping:
                pool = self._replaced(pool, "memory")
            return _told(answered.judged, answered.printed, name, trajectory)
        except TimeoutError:
            metrics.WORKERS_LOST.labels("timed_out").inc()
            return Refused(
                Reason.TIMED_OUT, f"{self._targets[name]} ran over {deadline_s:g} s and was killed"
            )
        except (ProcessExpired, BrokenProcessPool):
            self._unless_stopping()
            metrics.WORKERS_LOST.labels("exited").inc()
            return Refused(Reason.EXITED, f"{self._targets[name]} ended its process")
        finally:
            self._give_back(pool)
            metrics.SCORE_SECONDS.labels(name).observe(time.monotonic() - began)

    def _relieve(self, call: "Future[Any]") -> None:
        """A call has waited a while: for its process to start, or in it, which then gets a stand-in."""
        if call.done() or self._stopping:
            return
        if not call.running():
            self._later(call)
        elif len(self._pools) + self._warming < MOST_FOLD * self._count:
            self._beside(self._stand_in())

    def _later(self, call: "Future[Any]") -> None:
        asyncio.get_running_loop().call_later(PATIENCE_S, self._relieve, call)

    async def _stand_in(self) -> None:
        self._warming += 1
        pool, ready = self._pool(), False
        try:
            async with asyncio.timeout(self._startup_s):
                await _warmed(pool)
            ready = not self._stopping
        except (TimeoutError, BrokenProcessPool, ProcessExpired) as error:
            log.warning("reward_process_not_started", error=f"{type(error).__name__}: {error}")
        finally:
            self._warming -= 1
        if ready:
            self._pools.append(pool)
            self._free.put_nowait(pool)
        else:
            await _end(pool)

    def _give_back(self, pool: ProcessPool) -> None:
        if len(self._pools) <= self._count or self._waiting or self._stopping:
            self._free.put_nowait(pool)
            return
        self._pools.remove(pool)
        self._beside(_end(pool))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        self._aside.add(task := asyncio.create_task(work))
        task.add_done_callback(self._aside.discard)

    def _working(self, pool: ProcessPool) -> ProcessPool:
        """The pool, or a new one in its place when its process died between calls.

        The dead one leaves the list before it is joined: joined twice, it would close its pipes twice.
        """
        self._unless_stopping()
        return pool if pool.active else self._replaced(pool, "idle")

    def _replaced(self, pool: ProcessPool, why: str) -> ProcessPool:
        metrics.WORKERS_LOST.labels(why).inc()
        self._pools[self._pools.index(pool)] = fresh = self._pool()
        self._beside(_end(pool))
        return fresh

    def _unless_stopping(self) -> None:
        """A call that our own shutdown broke off has no verdict: the rollout is scored after the restart."""
        if self._stopping:
            raise asyncio.CancelledError

    async def _call(self, pool: ProcessPool, deadline_s: float, function: Callable[..., T], *args: Any) -> T:
        """The deadline begins when the process takes the call; its start has a deadline of its own."""
        async with asyncio.timeout(self._startup_s + deadline_s):
            scheduled = pool.schedule(function, args=args, timeout=deadline_s)
            self._later(scheduled)
            call = asyncio.wrap_future(scheduled)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            return await call


def _told(judged: T | Refused, printed: str, name: str, trajectory: Trajectory) -> T | Refused:
    """A refusal says what was printed too; otherwise it is a field of a line of the log."""
    if not printed:
        return judged
    if isinstance(judged, Refused):
        return Refused(judged.reason, f"{judged.text}; it printed: {printed}")
    log.info("reward_printed", reward=name, rollout_id=str(trajectory.rollout_id), text=printed)
    return judged


async def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    await asyncio.to_thread(pool.join)


async def _warmed(pool: ProcessPool) -> worker.Report:
    """Start the pool's process, off the event loop, and wait until it has imported everything."""
    report: worker.Report = await asyncio.wrap_future(await asyncio.to_thread(pool.schedule, worker.report))
    return report
