"""Making rollouts: a bounded number at once, each under a lease that is renewed while its agent runs.

An assignment stays in hand until the ledger says that its rollout is over, here or elsewhere: through
another runner's lease, pauses between attempts, and outages of the gateway or of Postgres. On shutdown
running agents get ``grace_s`` to end; what is left is given back for others to take at once.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from pydantic import SecretStr

from leyden_platform.clock import Clock
from leyden_platform.messaging import MessagingError, Publisher, Unavailable
from leyden_platform.telemetry import span, trace_headers
from leyden_platform.tokens import RolloutClaims, mint
from leyden_runner import events, metrics
from leyden_runner.environment import agent_environment
from leyden_runner.executors.base import Execution, Executor
from leyden_runner.gateway import GatewayProbe
from leyden_runner.ledger import Exhausted, Held, Lease, Ledger, Over
from leyden_runner.outcome import NotExecuted, Verdict, judge
from leyden_runner.retries import Again, Final, Next, RetryPolicy
from leyden_schemas import Outcome, RolloutAssigned, RolloutFinished

log = structlog.get_logger(__name__)
T = TypeVar("T")

_HOUR_S = 3600.0
_TOKEN_SLACK_S = 60.0
_LEDGER_PAUSE_S = 1.0


@dataclass(slots=True)
class Job:
    """An assignment in hand; ``done`` is called once its rollout is over. ``dropped`` ends its waiting."""

    assigned: RolloutAssigned
    done: Callable[[], None]
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What bounds and times the work."""

    gateway_url: str
    secret: SecretStr
    concurrency: int = 16
    heartbeat_s: float = 5.0
    grace_s: float = 15.0
    give_back_s: float = 3.0
    retention_s: float = 30 * 86_400.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class _Done:
    """The rollout is over."""


@dataclass(frozen=True, slots=True)
class _Wait:
    after_s: float


_Step = _Done | _Wait


@dataclass(slots=True)
class _Active:
    """A leased attempt. ``stopped`` is why the runner stopped it, when it did."""

    lease: Lease
    execution: "asyncio.Task[Execution]"
    stopped: str | None = None

    def stop(self, why: str) -> None:
        if not self.execution.done():
            self.stopped = why
            self.execution.cancel()


_LEASE_LOST = "the lease was lost"
_SHUTDOWN = "the runner is shutting down"


class Stopping(Unavailable):
    """The runner takes no more work."""


class Rollouts:
    """Everything in hand; a ``Component``. List it after the consumers: it must stop before them."""

    def __init__(
        self,
        ledger: Ledger,
        executors: Mapping[str, Executor],
        publisher: Publisher,
        gateway: GatewayProbe,
        options: Options,
        *,
        owner: str,
        clock: Clock,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = "rollouts"
        self._ledger, self._executors, self._publisher = ledger, executors, publisher
        self._gateway, self._options, self._owner, self._clock = gateway, options, owner, clock
        self._announce = announce
        self._slots = asyncio.Semaphore(options.concurrency)
        self._in_hand = asyncio.Semaphore(options.concurrency * 4)
        self._active: dict[Lease, _Active] = {}
        self._drivers: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._error: BaseException | None = None
        self._failed = asyncio.Event()
        metrics.SLOTS.set(options.concurrency)

    def not_ready(self) -> str | None:
        """Always ready to take work until it stops."""
        return _SHUTDOWN if self._stopping.is_set() else None

    # -- taking work

    async def take(self, job: Job) -> None:
        """Wait for a free slot, then make the rollout in the background. Raises ``Stopping``."""
        if self._stopping.is_set():
            raise Stopping(_SHUTDOWN)
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
            raise Stopping(_SHUTDOWN)
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
                if isinstance(step, _Done):
                    job.done()
                    return
                with metrics.WAITING.track_inprogress():
                    await self._unless_stopping(asyncio.sleep(step.after_s))
                    await self._unless_stopping(self._slots.acquire())
            self._slots.release()

    async def _attempt(self, assigned: RolloutAssigned) -> _Step:
        """Claim, run and conclude one attempt, if one may be made now."""
        await self._unless_stopping(self._gateway.up())
        if self._stopping.is_set():
            raise Stopping(_SHUTDOWN)
        try:
            claim = await self._ledger.claim(assigned)
        except Unavailable as error:
            log.warning("ledger_unavailable", rollout_id=assigned.rollout_id, error=str(error))
            return _Wait(_LEDGER_PAUSE_S)
        match claim:
            case Over():
                metrics.DUPLICATES.inc()
                return _Done()
            case Held(for_s):
                return _Wait(for_s + 0.05)
            case Exhausted():
                metrics.LEASE_LOST.labels("expired").inc()
                self._count_final(assigned, Outcome.INFRASTRUCTURE_FAILED)
                self._announce()
                return _Done()
            case Lease() as lease:
                if lease.expired:
                    metrics.LEASE_LOST.labels("expired").inc(lease.expired)
                    self._announce()
                return await self._run(assigned, lease)

    async def _run(self, assigned: RolloutAssigned, lease: Lease) -> _Step:
        bound = structlog.contextvars.bound_contextvars(
            rollout_id=str(assigned.rollout_id), attempt=lease.attempt
        )
        with bound, metrics.ACTIVE.track_inprogress():
            active = _Active(lease, asyncio.create_task(self._execute(assigned, lease)))
            self._active[lease] = active
            try:
                execution = await self._ended(active)
                return await self._conclude(assigned, active, execution)
            finally:
                del self._active[lease]

    async def _execute(self, assigned: RolloutAssigned, lease: Lease) -> Execution:
        executor = self._executors.get(assigned.task.agent)
        if executor is None:
            known = ", ".join(sorted(self._executors))
            return Execution(NotExecuted(f"agent {assigned.task.agent!r} is not known here; known: {known}"))
        try:
            await self._publisher.publish(
                events.started(assigned, lease.attempt, runner=self._owner, at=self._clock.now())
            )
        except MessagingError as error:
            away = isinstance(error, Unavailable)
            return Execution(NotExecuted(f"the start could not be announced: {error}", excused=away))
        log.info("rollout_started", agent=assigned.task.agent, task_id=assigned.task.task_id)
        return await executor.execute(assigned.task, self._environment(assigned, lease))

    def _environment(self, assigned: RolloutAssigned, lease: Lease) -> dict[str, str]:
        traceparent = trace_headers().get("traceparent")
        token = mint(
            RolloutClaims.of(assigned, lease.attempt, traceparent),
            self._options.secret,
            ttl_s=assigned.task.limits.timeout_s + _TOKEN_SLACK_S,
        )
        return agent_environment(
            assigned,
            lease.attempt,
            gateway_url=self._options.gateway_url,
            token=token,
            traceparent=traceparent,
        )

    @staticmethod
    async def _ended(active: _Active) -> Execution:
        """The execution's result, also when it was stopped from here."""
        try:
            return await active.execution
        except asyncio.CancelledError:
            if active.stopped is None:
                raise
            return Execution(NotExecuted(active.stopped))

    async def _conclude(self, assigned: RolloutAssigned, active: _Active, execution: Execution) -> _Step:
        lease, verdict = active.lease, judge(execution.ending)
        metrics.ATTEMPTS.labels(assigned.task.agent, verdict.outcome.value).inc()
        metrics.EXECUTION.labels(assigned.task.agent).observe(execution.duration_s)
        if execution.own_s is not None:
            metrics.OVERHEAD.observe(max(0.0, execution.duration_s - execution.own_s))
        if active.stopped == _LEASE_LOST:
            return self._fenced("renewal")
        following = await self._following(assigned, active, execution)
        message = self._finished(assigned, lease, verdict, execution, final=isinstance(following, Final))
        if not await self._commit(lease, message, following):
            return self._fenced("conclusion")
        self._announce()
        log.info("rollout_finished", outcome=verdict.outcome.value, final=message.final, error=verdict.error)
        if isinstance(following, Again):
            return _Wait(following.after_s)
        self._count_final(assigned, verdict.outcome)
        return _Done()

    async def _following(self, assigned: RolloutAssigned, active: _Active, execution: Execution) -> Next:
        """Whether another attempt follows, and the count of why."""
        outcome = judge(execution.ending).outcome
        if active.stopped == _SHUTDOWN:
            metrics.RETRIES.labels("given_back").inc()
            return Again(0.0, counted=False)
        following = self._options.retry.after(
            outcome,
            failures=active.lease.failures,
            max_attempts=assigned.task.limits.max_attempts,
            excused=outcome is Outcome.INFRASTRUCTURE_FAILED and await self._excused(execution),
        )
        if isinstance(following, Again):
            metrics.RETRIES.labels("failed" if following.counted else "outage").inc()
        return following

    async def _excused(self, execution: Execution) -> bool:
        if isinstance(execution.ending, NotExecuted):
            return execution.ending.excused
        return not await self._gateway.look()

    def _finished(
        self, assigned: RolloutAssigned, lease: Lease, verdict: Verdict, execution: Execution, *, final: bool
    ) -> RolloutFinished:
        return events.finished(
            assigned,
            lease.attempt,
            verdict.outcome,
            at=self._clock.now(),
            final=final,
            output=verdict.output,
            error=verdict.error,
            log_tail=execution.log_tail,
            duration_s=execution.duration_s,
        )

    async def _commit(self, lease: Lease, message: RolloutFinished, following: Next) -> bool:
        """Conclude in the ledger, trying until Postgres answers or shutdown cancels the driver."""
        while True:
            try:
                return await self._ledger.conclude(lease, message, following)
            except Unavailable as error:
                log.warning("ledger_unavailable", error=str(error))
                await asyncio.sleep(_LEDGER_PAUSE_S)

    def _fenced(self, when: str) -> _Step:
        metrics.LEASE_LOST.labels(when).inc()
        log.warning("lease_lost", when=when)
        return _Wait(0.0)

    @staticmethod
    def _count_final(assigned: RolloutAssigned, outcome: Outcome) -> None:
        metrics.ROLLOUTS_FINISHED.labels(assigned.task.agent, outcome.value).inc()

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
                await self._renew()
                if loop.time() >= forget_at:
                    forget_at = loop.time() + _HOUR_S
                    await self._ledger.forget(self._options.retention_s)
            except Unavailable as error:
                log.warning("renewal_failed", leases=len(self._active), error=str(error))

    async def _renew(self) -> None:
        asked = dict(self._active)
        held = await self._ledger.renew(asked.keys())
        for lease, active in asked.items():
            if lease not in held:
                active.stop(_LEASE_LOST)

    async def _drain(self) -> None:
        log.info("draining", active=len(self._active), grace_s=self._options.grace_s)
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=self._options.grace_s)
        for active in self._active.values():
            active.stop(_SHUTDOWN)
        if self._drivers:
            await asyncio.wait(self._drivers, timeout=self._options.give_back_s)
        for driver in list(self._drivers):
            driver.cancel()
