"""Rollouts in hand: a bounded number runs at once, and each stays in hand until it is over.

The ledger says when a rollout is over, here or elsewhere: that may lie behind another runner's lease, pauses
between attempts, and outages of the gateway or of Postgres. On shutdown running agents get ``grace_s`` to
end; what is left is given back for others to take at once.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from leyden_platform.messaging import Unavailable
from leyden_platform.telemetry import span
from leyden_runner import metrics
from leyden_runner.attempts import SHUTDOWN, Attempts, Done, Step
from leyden_runner.gateway import GatewayProbe
from leyden_runner.ledger import Ledger
from leyden_schemas import RolloutAssigned

log = structlog.get_logger(__name__)
T = TypeVar("T")

_HOUR_S = 3600.0
_IN_HAND_PER_SLOT = 4


@dataclass(slots=True)
class Job:
    """An assignment in hand; ``done`` is called once its rollout is over. ``dropped`` ends its waiting."""

    assigned: RolloutAssigned
    done: Callable[[], None]
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What bounds and times the work."""

    concurrency: int = 16
    heartbeat_s: float = 5.0
    grace_s: float = 15.0
    give_back_s: float = 4.0
    retention_s: float = 30 * 86_400.0


class Stopping(Unavailable):
    """The runner takes no more work."""


class Rollouts:
    """Everything in hand; a ``Component``. List it after the consumers: it must stop before them."""

    def __init__(self, attempts: Attempts, ledger: Ledger, gateway: GatewayProbe, options: Options) -> None:
        self.name = "rollouts"
        self._attempts, self._ledger, self._gateway, self._options = attempts, ledger, gateway, options
        self._slots = asyncio.Semaphore(options.concurrency)
        self._in_hand = asyncio.Semaphore(options.concurrency * _IN_HAND_PER_SLOT)
        self._drivers: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._error: BaseException | None = None
        self._failed = asyncio.Event()
        metrics.SLOTS.set(options.concurrency)

    def not_ready(self) -> str | None:
        """Always ready to take work until it stops."""
        return SHUTDOWN if self._stopping.is_set() else None

    # -- taking work

    async def take(self, job: Job) -> None:
        """Wait for a free slot, then make the rollout in the background. Raises ``Stopping``."""
        if self._stopping.is_set():
            raise Stopping(SHUTDOWN)
        await self._unless_stopping(self._in_hand.acquire())
        try:
            await self._unless_stopping(self._slots.acquire())
        except BaseException:
            self._in_hand.release()
            raise
        driver = asyncio.create_task(self._drive(job), name=f"rollout-{job.assigned.rollout_id}")
        self._drivers.add(driver)
        driver.add_done_callback(self._driver_ended)

    def _driver_ended(self, driver: "asyncio.Task[None]") -> None:
        self._drivers.discard(driver)
        self._in_hand.release()
        error = None if driver.cancelled() else driver.exception()
        if error is not None:
            self._error = self._error or error
            self._failed.set()

    async def _unless_stopping(self, awaitable: Awaitable[T]) -> T:
        work = asyncio.ensure_future(awaitable)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise Stopping(SHUTDOWN)
        finally:
            stopping.cancel()
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work

    # -- one rollout

    async def _drive(self, job: Job) -> None:
        """Attempt until the rollout is over; called with a slot, and holds none while it waits."""
        attributes = {"leyden.rollout_id": str(job.assigned.rollout_id), "leyden.run": job.assigned.run}
        with span("rollout", None, **attributes), contextlib.suppress(Stopping):
            while not job.dropped:
                try:
                    step = await self._attempt(job.assigned)
                finally:
                    self._slots.release()
                if isinstance(step, Done):
                    job.done()
                    return
                with metrics.WAITING.track_inprogress():
                    await self._unless_stopping(asyncio.sleep(step.after_s))
                    await self._unless_stopping(self._slots.acquire())
            self._slots.release()

    async def _attempt(self, assigned: RolloutAssigned) -> Step:
        """One attempt, once the gateway can be reached and unless the runner is stopping."""
        await self._unless_stopping(self._gateway.up())
        if self._stopping.is_set():
            raise Stopping(SHUTDOWN)
        return await self._attempts.make(assigned)

    # -- leases and shutdown

    async def run(self, stop: asyncio.Event) -> None:
        """Renew leases until ``stop``; then let agents end, and give back what is left.

        An error that nobody expected in any rollout fails the component: its offset could never be committed.
        """
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._failed)]
        heart = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            await asyncio.wait([heart, *ends], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            await self._drain()
        finally:
            self._stopping.set()
            for task in (heart, *ends):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heart
        if self._error is not None:
            raise self._error

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        forget_at = loop.time()
        while True:
            await asyncio.sleep(self._options.heartbeat_s)
            try:
                await self._attempts.renew()
                if loop.time() >= forget_at:
                    forget_at = loop.time() + _HOUR_S
                    await self._ledger.forget(self._options.retention_s)
            except Unavailable as error:
                log.warning("renewal_failed", leases=len(self._attempts), error=str(error))

    async def _drain(self) -> None:
        log.info("draining", active=len(self._attempts), grace_s=self._options.grace_s)
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=self._options.grace_s)
        self._attempts.stop()
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=self._options.give_back_s)
        for driver in list(self._drivers):
            driver.cancel()
