"""The ledger's contract, held by Postgres and by the ledger in memory that other tests build on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from leyden_platform.clock import SystemClock
from leyden_platform.database import create_engine, migrate, schema_drift, transaction
from leyden_platform.settings import DatabaseSettings
from leyden_runner.events import finished
from leyden_runner.ledger import Claim, Exhausted, Held, Lease, Ledger, Over, PostgresLedger
from leyden_runner.retries import Again, Final
from leyden_runner.tables import METADATA, OUTBOX, SCHEMA
from leyden_runner.testing import MemoryLedger, SharedRows
from leyden_schemas import Limits, Outcome, RolloutAssigned, RolloutFinished, Task, decode

pytestmark = pytest.mark.postgres
CLOCK = SystemClock()
LONG_S, SHORT_S = 60.0, 0.15


@dataclass
class World:
    """Ledgers of several runners over one state, and what was announced."""

    ledger: Callable[[str, float], Ledger]
    announced: Callable[[], Awaitable[list[RolloutFinished]]]


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, database: DatabaseSettings) -> AsyncIterator[World]:
    if request.param == "memory":
        shared = SharedRows()

        async def remembered() -> list[RolloutFinished]:
            return shared.announced

        yield World(lambda o, s: MemoryLedger(shared, owner=o, lease_s=s, clock=CLOCK), remembered)
        return
    await migrate(database, package="leyden_runner", schema=SCHEMA)
    engine = create_engine(database)

    async def queued() -> list[RolloutFinished]:
        async with transaction(engine) as connection:
            rows = (await connection.execute(select(OUTBOX).order_by(OUTBOX.c.id))).all()
        return [decode(row.topic, row.value) for row in rows]

    yield World(lambda o, s: PostgresLedger(engine, owner=o, lease_s=s, clock=CLOCK), queued)
    await engine.dispose()


def assignment(task_id: str = "t", max_attempts: int = 3) -> RolloutAssigned:
    task = Task(task_id=task_id, input={}, policy="p", limits=Limits(max_attempts=max_attempts))
    return RolloutAssigned.fan_out(task)[0]


def end(assigned: RolloutAssigned, attempt: int, outcome: Outcome, *, final: bool = True) -> RolloutFinished:
    return finished(assigned, attempt, outcome, at=CLOCK.now(), final=final)


def lease_of(claim: Claim) -> Lease:
    assert isinstance(claim, Lease)
    return claim


async def eventually(ledger: Ledger, assigned: RolloutAssigned) -> Claim:
    """The first claim that is not refused for being held; bounded by the test's own timeout."""
    while isinstance(claim := await ledger.claim(assigned), Held):  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(claim.for_s + 0.01)
    return claim


async def test_the_tables_are_those_of_the_migrations(database: DatabaseSettings) -> None:
    await migrate(database, package="leyden_runner", schema=SCHEMA)
    engine = create_engine(database)
    try:
        drift = await schema_drift(engine, METADATA, SCHEMA)
    finally:
        await engine.dispose()
    assert [line for line in drift if "modify_comment" not in line] == []


async def test_one_runner_gets_the_lease(world: World) -> None:
    one, other = world.ledger("one", LONG_S), world.ledger("other", LONG_S)
    assert await one.claim(assignment()) == Lease(assignment().rollout_id, 1)
    held = await other.claim(assignment())
    assert isinstance(held, Held)
    assert LONG_S - 5 < held.for_s <= LONG_S
    assert isinstance(await one.claim(assignment()), Held)


async def test_of_many_claims_at_once_one_wins(world: World) -> None:
    ledgers = [world.ledger(f"runner-{index}", LONG_S) for index in range(12)]
    claims = await asyncio.gather(*(ledger.claim(assignment()) for ledger in ledgers))
    assert sum(isinstance(claim, Lease) for claim in claims) == 1
    assert sum(isinstance(claim, Held) for claim in claims) == 11


async def test_a_finished_rollout_is_over_for_everyone(world: World) -> None:
    one, other = world.ledger("one", LONG_S), world.ledger("other", LONG_S)
    lease = lease_of(await one.claim(assignment()))
    message = end(assignment(), 1, Outcome.AGENT_FAILED)
    assert await one.conclude(lease, message, Final())
    assert await other.claim(assignment()) == Over(Outcome.AGENT_FAILED)
    assert not await one.conclude(lease, message, Final())
    assert await world.announced() == [message]


async def test_an_expired_lease_is_taken_over_and_the_stale_attempt_fenced(world: World) -> None:
    slow, quick = world.ledger("slow", SHORT_S), world.ledger("quick", LONG_S)
    stale = lease_of(await slow.claim(assignment()))
    fresh = lease_of(await eventually(quick, assignment()))
    assert (fresh.attempt, fresh.failures, fresh.expired) == (2, 1, 1)
    assert await slow.renew([stale]) == set()
    assert not await slow.conclude(stale, end(assignment(), 1, Outcome.SUCCEEDED), Final())
    assert await quick.conclude(fresh, end(assignment(), 2, Outcome.SUCCEEDED), Final())
    announced = [(event.attempt, event.outcome, event.final) for event in await world.announced()]
    assert announced == [(1, Outcome.INFRASTRUCTURE_FAILED, False), (2, Outcome.SUCCEEDED, True)]


async def test_an_expired_lease_that_nobody_took_still_concludes(world: World) -> None:
    slow = world.ledger("slow", SHORT_S)
    lease = lease_of(await slow.claim(assignment()))
    await asyncio.sleep(SHORT_S * 1.5)
    assert await slow.conclude(lease, end(assignment(), 1, Outcome.SUCCEEDED), Final())


async def test_renewal_keeps_the_others_out(world: World) -> None:
    one, other = world.ledger("one", SHORT_S), world.ledger("other", SHORT_S)
    lease = lease_of(await one.claim(assignment()))
    gone = Lease(assignment("unknown").rollout_id, 1)
    for _ in range(4):
        await asyncio.sleep(SHORT_S / 2)
        assert await one.renew([lease, gone]) == {lease}
        assert isinstance(await other.claim(assignment()), Held)
    assert await one.renew([]) == set()


async def test_the_last_lost_attempt_ends_the_rollout(world: World) -> None:
    crashing = world.ledger("crashing", SHORT_S)
    assigned = assignment(max_attempts=2)
    lease_of(await crashing.claim(assigned))
    lease_of(await eventually(crashing, assigned))
    assert await eventually(crashing, assigned) == Exhausted()
    assert await crashing.claim(assigned) == Over(Outcome.INFRASTRUCTURE_FAILED)
    assert [(event.attempt, event.final) for event in await world.announced()] == [(1, False), (2, True)]


@pytest.mark.parametrize(("counted", "failures"), [(True, 1), (False, 0)])
async def test_a_retry_waits_and_counts_as_it_is_told(world: World, counted: bool, failures: int) -> None:
    one, other = world.ledger("one", LONG_S), world.ledger("other", LONG_S)
    lease = lease_of(await one.claim(assignment()))
    failed = end(assignment(), 1, Outcome.INFRASTRUCTURE_FAILED, final=False)
    assert await one.conclude(lease, failed, Again(0.2, counted=counted))
    held = await other.claim(assignment())
    assert isinstance(held, Held)
    assert held.for_s <= 0.2
    again = lease_of(await eventually(other, assignment()))
    assert (again.attempt, again.failures, again.expired) == (2, failures, 0)


async def test_finished_rollouts_are_forgotten_when_old(world: World) -> None:
    ledger = world.ledger("one", LONG_S)
    lease = lease_of(await ledger.claim(assignment()))
    lease_of(await ledger.claim(assignment("open")))
    await ledger.conclude(lease, end(assignment(), 1, Outcome.SUCCEEDED), Final())
    assert await ledger.forget(60) == 0
    await asyncio.sleep(0.02)
    assert await ledger.forget(0.001) == 1
    assert isinstance(await ledger.claim(assignment("open")), Held)
    assert isinstance(await ledger.claim(assignment()), Lease)
