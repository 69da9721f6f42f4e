"""Who may make which attempt at which rollout: leases in Postgres, decided by one statement each.

The clock is the database's. ``available_at`` says when anyone may take the next attempt, whether what must
pass is another runner's lease or a pause after a failure. The attempt number fences: it only grows, and only
the runner that holds the newest attempt can conclude it. What is concluded and what is announced of it
commit together, through the outbox.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from leyden_platform.clock import Clock
from leyden_platform.database import enqueue, transaction
from leyden_runner.events import finished
from leyden_runner.retries import Again, Final, Next
from leyden_runner.tables import OUTBOX
from leyden_schemas import Outcome, RolloutAssigned, RolloutFinished

LOST = "the runner that made this attempt stopped renewing its lease"


@dataclass(frozen=True, slots=True)
class Lease:
    """This runner may make ``attempt``; ``failures`` earlier ones count, ``expired`` were taken over."""

    rollout_id: UUID
    attempt: int
    failures: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """Nobody may take an attempt for another ``for_s`` seconds."""

    for_s: float


@dataclass(frozen=True, slots=True)
class Over:
    """The rollout was finished before, as ``outcome``."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The last attempt's lease expired and no attempt is left: the rollout is over now, and announced."""


Claim = Lease | Held | Over | Exhausted


class Ledger(Protocol):
    """Raises ``Unavailable`` when it cannot be reached."""

    async def claim(self, assigned: RolloutAssigned) -> Claim:
        """Take the next attempt at a rollout, if it may be taken now."""
        ...

    async def renew(self, leases: Collection[Lease]) -> set[Lease]:
        """Prolong the leases; those that are returned are still held."""
        ...

    async def conclude(self, lease: Lease, finished: RolloutFinished, following: Next) -> bool:
        """Record and announce how an attempt ended; False, without effect, when the lease is not held."""
        ...

    async def forget(self, older_than_s: float) -> int:
        """Remove rollouts that finished long ago; returns how many."""
        ...


_CLAIM = text("""
WITH claimed AS (
    INSERT INTO runner.rollouts AS r
        (rollout_id, group_id, tenant, run, task_id, attempt, failures, owner, available_at, created_at)
    VALUES (:rollout_id, :group_id, :tenant, :run, :task_id, 1, 0, :owner,
            now() + make_interval(secs => :lease_s), now())
    ON CONFLICT (rollout_id) DO UPDATE SET
        attempt = r.attempt + 1,
        failures = r.failures + CASE WHEN r.owner IS NULL THEN 0 ELSE 1 END,
        owner = excluded.owner,
        available_at = excluded.available_at
    WHERE r.outcome IS NULL AND r.available_at <= now()
    RETURNING attempt, failures
), lost AS (
    UPDATE runner.attempts AS a
    SET finished_at = now(), outcome = 'infrastructure_failed', error = :lost
    FROM claimed
    WHERE a.rollout_id = :rollout_id AND a.outcome IS NULL
    RETURNING a.attempt
), opened AS (
    INSERT INTO runner.attempts (rollout_id, attempt, owner, started_at)
    SELECT :rollout_id, attempt, :owner, now() FROM claimed WHERE failures < :max_attempts
)
SELECT attempt, failures, NULL AS outcome, 0.0::float8 AS held_s, ARRAY(SELECT attempt FROM lost) AS lost
FROM claimed
UNION ALL
SELECT NULL, NULL, outcome, extract(epoch FROM available_at - now())::float8, NULL
FROM runner.rollouts WHERE rollout_id = :rollout_id AND NOT EXISTS (SELECT FROM claimed)
""")

_RENEW = text("""
UPDATE runner.rollouts AS r
SET available_at = now() + make_interval(secs => :lease_s)
FROM unnest(CAST(:rollout_ids AS uuid[]), CAST(:attempts AS int[])) AS held (rollout_id, attempt)
WHERE r.rollout_id = held.rollout_id AND r.attempt = held.attempt AND r.owner = :owner AND r.outcome IS NULL
RETURNING r.rollout_id
""")

_CONCLUDE = text("""
WITH concluded AS (
    UPDATE runner.rollouts
    SET owner = NULL,
        failures = failures + :counted,
        available_at = now() + make_interval(secs => :after_s),
        outcome = CASE WHEN :final THEN :outcome END,
        finished_at = CASE WHEN :final THEN now() END
    WHERE rollout_id = :rollout_id AND attempt = :attempt AND owner = :owner AND outcome IS NULL
    RETURNING attempt
)
UPDATE runner.attempts AS a
SET finished_at = now(), outcome = :outcome, error = :error, duration_s = :duration_s
FROM concluded
WHERE a.rollout_id = :rollout_id AND a.attempt = concluded.attempt
RETURNING a.attempt
""")

_EXHAUST = text("""
UPDATE runner.rollouts
SET owner = NULL, outcome = 'infrastructure_failed', finished_at = now()
WHERE rollout_id = :rollout_id
""")

_FORGET = text("""
DELETE FROM runner.rollouts WHERE finished_at < now() - make_interval(secs => :older_than_s)
""")


class PostgresLedger:
    """The ledger shared by all runners of a database; ``owner`` names this one, uniquely per process."""

    def __init__(self, engine: AsyncEngine, *, owner: str, lease_s: float, clock: Clock) -> None:
        self._engine, self._owner, self._lease_s, self._clock = engine, owner, lease_s, clock

    async def claim(self, assigned: RolloutAssigned) -> Claim:
        """Take the next attempt. An expired lease counts as a failed attempt, and is announced as one."""
        max_attempts = assigned.task.limits.max_attempts
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_CLAIM, self._claim_values(assigned))).one_or_none()
            if row is None:  # another runner inserted it within this statement's snapshot
                return Held(self._lease_s)
            if row.attempt is None:
                return Over(Outcome(row.outcome)) if row.outcome else Held(max(0.0, row.held_s))
            exhausted = row.failures >= max_attempts
            await self._announce_lost(connection, assigned, row.lost, final=exhausted)
            if exhausted:
                await connection.execute(_EXHAUST, {"rollout_id": assigned.rollout_id})
                return Exhausted()
            return Lease(assigned.rollout_id, row.attempt, row.failures, expired=len(row.lost))

    def _claim_values(self, assigned: RolloutAssigned) -> dict[str, Any]:
        return {
            "rollout_id": assigned.rollout_id,
            "group_id": assigned.group_id,
            "tenant": assigned.tenant,
            "run": assigned.run,
            "task_id": assigned.task.task_id or "",
            "owner": self._owner,
            "lease_s": self._lease_s,
            "lost": LOST,
            "max_attempts": assigned.task.limits.max_attempts,
        }

    async def _announce_lost(
        self, connection: AsyncConnection, assigned: RolloutAssigned, attempts: list[int], *, final: bool
    ) -> None:
        events = [
            finished(
                assigned,
                attempt,
                Outcome.INFRASTRUCTURE_FAILED,
                at=self._clock.now(),
                final=final and attempt == max(attempts),
                error=LOST,
            )
            for attempt in sorted(attempts)
        ]
        await enqueue(connection, OUTBOX, *events)

    async def renew(self, leases: Collection[Lease]) -> set[Lease]:
        """Prolong all in one statement."""
        if not leases:
            return set()
        values = {
            "rollout_ids": [lease.rollout_id for lease in leases],
            "attempts": [lease.attempt for lease in leases],
            "owner": self._owner,
            "lease_s": self._lease_s,
        }
        async with transaction(self._engine) as connection:
            held = {row.rollout_id for row in await connection.execute(_RENEW, values)}
        return {lease for lease in leases if lease.rollout_id in held}

    async def conclude(self, lease: Lease, finished: RolloutFinished, following: Next) -> bool:
        """Conclude and announce in one transaction; an expired lease that nobody took still counts."""
        match following:
            case Final():
                after_s, counted = 0.0, 0
            case Again(after_s=after_s, counted=cost):
                counted = int(cost)
        values = {
            "rollout_id": lease.rollout_id,
            "attempt": lease.attempt,
            "owner": self._owner,
            "final": finished.final,
            "outcome": finished.outcome.value,
            "error": finished.error,
            "duration_s": finished.duration_s,
            "after_s": after_s,
            "counted": counted,
        }
        async with transaction(self._engine) as connection:
            if (await connection.execute(_CONCLUDE, values)).first() is None:
                return False
            await enqueue(connection, OUTBOX, finished)
        return True

    async def forget(self, older_than_s: float) -> int:
        """Remove rollouts that finished long ago, with their attempts."""
        async with transaction(self._engine) as connection:
            return (await connection.execute(_FORGET, {"older_than_s": older_than_s})).rowcount
