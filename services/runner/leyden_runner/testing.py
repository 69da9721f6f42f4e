"""A ledger in memory that passes the same suite as the one in Postgres, for tests of what is built on it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from leyden_platform.clock import Clock
from leyden_runner.events import finished
from leyden_runner.ledger import LOST, Claim, Exhausted, Held, Lease, Over
from leyden_runner.retries import Again, Next
from leyden_schemas import Outcome, RolloutAssigned, RolloutFinished


@dataclass(slots=True)
class _Row:
    attempt: int
    failures: int
    owner: str | None
    available_at: datetime
    outcome: Outcome | None = None
    finished_at: datetime | None = None


@dataclass(slots=True)
class SharedRows:
    """What several ``MemoryLedger`` share, as runners share a database."""

    rows: dict[UUID, _Row] = field(default_factory=dict)
    announced: list[RolloutFinished] = field(default_factory=list)


class MemoryLedger:
    """One runner's view of the shared rows."""

    def __init__(self, shared: SharedRows, *, owner: str, lease_s: float, clock: Clock) -> None:
        self._shared, self._owner, self._clock = shared, owner, clock
        self._lease = timedelta(seconds=lease_s)

    async def claim(self, assigned: RolloutAssigned) -> Claim:
        """Like ``PostgresLedger.claim``."""
        now = self._clock.now()
        row = self._shared.rows.setdefault(assigned.rollout_id, _Row(0, 0, None, now))
        if row.outcome is not None:
            return Over(row.outcome)
        if row.available_at > now:
            return Held((row.available_at - now).total_seconds())
        expired = int(row.owner is not None)
        row.failures += expired
        exhausted = row.failures >= assigned.task.limits.max_attempts
        if expired:
            self._announce_lost(assigned, row.attempt, final=exhausted)
        row.attempt, row.owner, row.available_at = row.attempt + 1, self._owner, now + self._lease
        if exhausted:
            row.owner, row.outcome, row.finished_at = None, Outcome.INFRASTRUCTURE_FAILED, now
            return Exhausted()
        return Lease(assigned.rollout_id, row.attempt, row.failures, expired)

    def _announce_lost(self, assigned: RolloutAssigned, attempt: int, *, final: bool) -> None:
        outcome = Outcome.INFRASTRUCTURE_FAILED
        now = self._clock.now()
        self._shared.announced.append(finished(assigned, attempt, outcome, at=now, final=final, error=LOST))

    async def renew(self, leases: Collection[Lease]) -> set[Lease]:
        """Like ``PostgresLedger.renew``."""
        held = {lease for lease in leases if self._holds(lease)}
        for lease in held:
            self._shared.rows[lease.rollout_id].available_at = self._clock.now() + self._lease
        return held

    async def conclude(self, lease: Lease, finished: RolloutFinished, following: Next) -> bool:
        """Like ``PostgresLedger.conclude``."""
        if not self._holds(lease):
            return False
        row, now = self._shared.rows[lease.rollout_id], self._clock.now()
        row.owner = None
        if isinstance(following, Again):
            row.failures += int(following.counted)
            row.available_at = now + timedelta(seconds=following.after_s)
        else:
            row.outcome, row.finished_at = finished.outcome, now
        self._shared.announced.append(finished)
        return True

    async def forget(self, older_than_s: float) -> int:
        """Like ``PostgresLedger.forget``."""
        limit = self._clock.now() - timedelta(seconds=older_than_s)
        old = [key for key, row in self._shared.rows.items() if row.finished_at and row.finished_at < limit]
        for key in old:
            del self._shared.rows[key]
        return len(old)

    def _holds(self, lease: Lease) -> bool:
        row = self._shared.rows.get(lease.rollout_id)
        return bool(row and row.outcome is None and row.attempt == lease.attempt and row.owner == self._owner)
