"""From the outbox to Kafka: in order, at least once, by one replica at a time.

A pass is one transaction: take the outbox's advisory lock, read the oldest rows, publish them and await their
acknowledgements, delete what was acknowledged. A crash between acknowledgement and commit publishes again;
readers recognise the repeat by the message's own id.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import Row, Table, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from leyden_platform.database.engine import DatabaseUnreachable, transaction
from leyden_platform.messaging.errors import PublishFailed, Rejected
from leyden_platform.messaging.publisher import Publisher

log = structlog.get_logger(__name__)

PENDING = Gauge("leyden_outbox_pending", "Messages committed and not yet published.", ["outbox"])
RELAYED = Counter("leyden_outbox_relayed_total", "Messages published from the outbox.", ["outbox"])
REFUSED = Counter("leyden_outbox_refused_total", "Messages the broker will never take.", ["outbox", "reason"])
FAILURES = Counter("leyden_outbox_failures_total", "Passes given up, to be tried again.", ["outbox", "cause"])

BATCH = 100
"""Most rows published in one transaction."""

LAST_PASS_S = 5.0
"""How long a stopping relay may still publish."""


class Order(StrEnum):
    """What must be acknowledged before a row is sent."""

    ID = "id"
    """Every earlier row."""
    KEY = "key"
    """Every earlier row of the same topic and key; others are sent together."""


class OutboxRelay:
    """A component that empties an outbox; ``wake`` it after a commit, else it looks twice a second.

    Kafka being away is not unreadiness: the service can still accept work; ``leyden_outbox_pending`` tells.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        outbox: Table,
        publisher: Publisher,
        name: str,
        *,
        order: Order = Order.KEY,
        poll_s: float = 0.5,
    ) -> None:
        self.name = f"{name}-outbox"
        self._engine, self._outbox, self._publisher = engine, outbox, publisher
        self._label, self._order, self._poll_s = name, order, poll_s
        self._lock = _lock_key(outbox.fullname)
        self._woken = asyncio.Event()
        self._failing: str | None = None
        self._waiting_for: str | None = "has not reached the database yet"

    def wake(self) -> None:
        """Something was committed: look now."""
        self._woken.set()

    def not_ready(self) -> str | None:
        """Ready while the database answers."""
        return self._waiting_for

    async def run(self, stop: asyncio.Event) -> None:
        """Relay until ``stop``, then once more, so that what was committed before it is published.

        The last pass is given up after a few seconds when Kafka is away; the next process continues.
        """
        working = asyncio.create_task(self._work(stop), name=self.name)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self.wake()
        await asyncio.wait([working], timeout=LAST_PASS_S)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    async def _work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            full = await self._attempt()
            if not full:
                await self._rest()
        await self._attempt()

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._woken.wait()

    async def _attempt(self) -> bool:
        """One pass, its failures counted and logged; whether more is likely to be waiting."""
        self._woken.clear()
        try:
            relayed = await self.relay()
        except PublishFailed as error:
            self._failed("kafka", error)
            self._waiting_for = None
            return False
        except DatabaseUnreachable as error:
            self._failed("database", error)
            self._waiting_for = str(error)
            return False
        self._failing = self._waiting_for = None
        return relayed >= BATCH

    def _failed(self, cause: str, error: Exception) -> None:
        """Count every failure; log the first of a series."""
        FAILURES.labels(self._label, cause).inc()
        if cause != self._failing:
            log.warning("outbox_pass_failed", outbox=self._label, cause=cause, error=str(error))
        self._failing = cause

    async def relay(self) -> int:
        """One pass: publish the oldest rows in order and delete them; returns how many it took on.

        Returns 0 while another replica is at it.
        Raises ``PublishFailed`` (what was acknowledged before is deleted) or ``DatabaseUnreachable``.
        """
        failure: PublishFailed | None = None
        async with transaction(self._engine) as connection:
            PENDING.labels(self._label).set(await self._count(connection))
            if not await connection.scalar(select(func.pg_try_advisory_xact_lock(self._lock))):
                return 0
            rows = await self._oldest(connection)
            done, failure = await self._publish(connection, rows)
            await connection.execute(delete(self._outbox).where(self._outbox.c.id.in_(done)))
        RELAYED.labels(self._label).inc(len(done))
        PENDING.labels(self._label).dec(len(done))
        if failure:
            raise failure
        return len(rows)

    async def _count(self, connection: AsyncConnection) -> int:
        counted = select(func.count()).where(self._outbox.c.refused.is_(None))
        return await connection.scalar(counted) or 0

    async def _oldest(self, connection: AsyncConnection) -> Sequence[Row[Any]]:
        table = self._outbox
        found = select(table).where(table.c.refused.is_(None)).order_by(table.c.id).limit(BATCH)
        return (await connection.execute(found)).all()

    async def _publish(
        self, connection: AsyncConnection, rows: Sequence[Row[Any]]
    ) -> tuple[list[int], PublishFailed | None]:
        """Publish until something fails; the ids acknowledged, and the failure."""
        done: list[int] = []
        for together in _waves(rows, self._order):
            failure: PublishFailed | None = None
            results = await asyncio.gather(*map(self._send, together))
            for row, result in zip(together, results, strict=True):
                match result:
                    case None:
                        done.append(row.id)
                    case PublishFailed():
                        failure = result
                    case Rejected():
                        await self._refuse(connection, row.id, result)
            if failure:
                return done, failure
        return done, None

    async def _send(self, row: Row[Any]) -> PublishFailed | Rejected | None:
        try:
            await self._publisher.publish_raw(row.topic, row.key.encode(), row.value, row.headers)
        except (PublishFailed, Rejected) as error:
            return error
        return None

    async def _refuse(self, connection: AsyncConnection, row_id: int, error: Rejected) -> None:
        """Keep a row that can never be published, so that it neither blocks the others nor is lost."""
        REFUSED.labels(self._label, error.reason).inc()
        log.error("outbox_message_refused", outbox=self._label, id=row_id, error=str(error))
        mark = update(self._outbox).where(self._outbox.c.id == row_id).values(refused=str(error))
        await connection.execute(mark)


def _waves(rows: Sequence[Row[Any]], order: Order) -> Iterator[list[Row[Any]]]:
    """``rows`` cut into runs whose members may be sent together."""
    wave: dict[tuple[str, str], Row[Any]] = {}
    for row in rows:
        if wave and (order is Order.ID or (row.topic, row.key) in wave):
            yield list(wave.values())
            wave = {}
        wave[row.topic, row.key] = row
    if wave:
        yield list(wave.values())


def _lock_key(name: str) -> int:
    """A stable 63-bit advisory lock key."""
    return int.from_bytes(sha256(f"leyden.outbox.{name}".encode()).digest()[:8], "big") >> 1
