"""One attempt at a rollout: lease it, announce it, run the agent under a renewed lease, conclude it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from pydantic import SecretStr

from leyden_platform.clock import Clock
from leyden_platform.messaging import MessagingError, Publisher, Unavailable
from leyden_platform.telemetry import trace_headers
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

SHUTDOWN = "the runner is shutting down"
_LEASE_LOST = "the lease was lost"
_TOKEN_SLACK_S = 60.0
_LEDGER_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Done:
    """The rollout is over, here or elsewhere."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Another attempt may be possible ``after_s`` from now."""

    after_s: float


Step = Done | Wait


@dataclass(frozen=True, slots=True)
class Access:
    """How agents reach the model: the gateway's address, and the secret that signs their tokens."""

    gateway_url: str
    secret: SecretStr


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


class Attempts:
    """Makes attempts and renews the leases of those being made. ``owner`` names this runner in events."""

    def __init__(
        self,
        ledger: Ledger,
        executors: Mapping[str, Executor],
        publisher: Publisher,
        gateway: GatewayProbe,
        access: Access,
        *,
        owner: str,
        clock: Clock,
        retry: RetryPolicy | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger, self._executors, self._publisher = ledger, executors, publisher
        self._gateway, self._access, self._owner, self._clock = gateway, access, owner, clock
        self._retry, self._announce = retry or RetryPolicy(), announce
        self._active: dict[Lease, _Active] = {}

    def __len__(self) -> int:
        """How many are being made now."""
        return len(self._active)

    async def renew(self) -> None:
        """Prolong the leases of all attempts being made; stop those that are lost. Raises ``Unavailable``."""
        asked = dict(self._active)
        held = await self._ledger.renew(asked.keys())
        for lease, active in asked.items():
            if lease not in held:
                active.stop(_LEASE_LOST)

    def stop(self) -> None:
        """The runner shuts down: kill the agents; their attempts are given back, at no cost."""
        for active in self._active.values():
            active.stop(SHUTDOWN)

    async def make(self, assigned: RolloutAssigned) -> Step:
        """Claim, run and conclude one attempt, if one may be made now."""
        try:
            claim = await self._ledger.claim(assigned)
        except Unavailable as error:
            log.warning("ledger_unavailable", rollout_id=assigned.rollout_id, error=str(error))
            return Wait(_LEDGER_PAUSE_S)
        match claim:
            case Over():
                metrics.DUPLICATES.inc()
                return Done()
            case Held(for_s):
                return Wait(for_s + 0.05)
            case Exhausted():
                metrics.LEASE_LOST.labels("expired").inc()
                self._count_final(assigned, Outcome.INFRASTRUCTURE_FAILED)
                self._announce()
                return Done()
            case Lease() as lease:
                if lease.expired:
                    metrics.LEASE_LOST.labels("expired").inc(lease.expired)
                    self._announce()
                return await self._run(assigned, lease)

    async def _run(self, assigned: RolloutAssigned, lease: Lease) -> Step:
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
        try:
            await self._publisher.publish(
                events.started(assigned, lease.attempt, runner=self._owner, at=self._clock.now())
            )
        except MessagingError as error:
            away = isinstance(error, Unavailable)
            return Execution(NotExecuted(f"the start could not be announced: {error}", excused=away))
        executor = self._executors.get(assigned.task.agent)
        if executor is None:
            known = ", ".join(sorted(self._executors))
            return Execution(NotExecuted(f"agent {assigned.task.agent!r} is not known here; known: {known}"))
        log.info("rollout_started", agent=assigned.task.agent, task_id=assigned.task.task_id)
        return await executor.execute(assigned.task, self._environment(assigned, lease))

    def _environment(self, assigned: RolloutAssigned, lease: Lease) -> dict[str, str]:
        traceparent = trace_headers().get("traceparent")
        token = mint(
            RolloutClaims.of(assigned, lease.attempt, traceparent),
            self._access.secret,
            ttl_s=assigned.task.limits.timeout_s + _TOKEN_SLACK_S,
        )
        return agent_environment(
            assigned,
            lease.attempt,
            gateway_url=self._access.gateway_url,
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

    async def _conclude(self, assigned: RolloutAssigned, active: _Active, execution: Execution) -> Step:
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
            return Wait(following.after_s)
        self._count_final(assigned, verdict.outcome)
        return Done()

    async def _following(self, assigned: RolloutAssigned, active: _Active, execution: Execution) -> Next:
        """Whether another attempt follows, and the count of why."""
        outcome = judge(execution.ending).outcome
        if active.stopped == SHUTDOWN:
            metrics.RETRIES.labels("given_back").inc()
            return Again(0.0, counted=False)
        following = self._retry.after(
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

    def _fenced(self, when: str) -> Step:
        metrics.LEASE_LOST.labels(when).inc()
        log.warning("lease_lost", when=when)
        return Wait(0.0)

    @staticmethod
    def _count_final(assigned: RolloutAssigned, outcome: Outcome) -> None:
        metrics.ROLLOUTS_FINISHED.labels(assigned.task.agent, outcome.value).inc()
