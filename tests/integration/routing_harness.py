"""What the routing tests do with a gateway: many calls, and what the log says of them."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
from gateway_harness import Gateway
from vllm_stub import eventually

from leyden_platform.tokens import RolloutClaims
from leyden_schemas import AliasMoved, CompletionRecorded

HELLO: Any = [{"role": "user", "content": "3 * 4?"}]
BREAKER = "leyden_gateway_breaker_state"
CLOSED, HALF_OPEN, OPEN = 0, 1, 2


async def ask(gateway: Gateway, claims: RolloutClaims, **body: Any) -> httpx.Response:
    """One call of a rollout."""
    return await gateway.post(claims, {"messages": HELLO, **body})


async def ask_all(gateway: Gateway, rollouts: list[RolloutClaims], **body: Any) -> list[httpx.Response]:
    """One call of each rollout, eight at once."""
    places = asyncio.Semaphore(8)

    async def one(claims: RolloutClaims) -> httpx.Response:
        async with places:
            return await ask(gateway, claims, **body)

    return await asyncio.gather(*map(one, rollouts))


async def last_records(gateway: Gateway, rollouts: list[RolloutClaims]) -> dict[UUID, CompletionRecorded]:
    """The latest record of each rollout that has one."""
    wanted = {claims.rollout_id for claims in rollouts}
    found: dict[UUID, CompletionRecorded] = {}
    for raw in await gateway.log_now():
        record = raw.message()
        if isinstance(record, CompletionRecorded) and record.rollout_id in wanted:
            found[record.rollout_id] = record
    return found


async def homes(gateway: Gateway, rollouts: list[RolloutClaims]) -> dict[UUID, str]:
    """Where each rollout's call went, after it was answered."""
    assert {answer.status_code for answer in await ask_all(gateway, rollouts)} == {200}
    return {rollout: record.replica for rollout, record in (await last_records(gateway, rollouts)).items()}


async def move_alias(gateway: Gateway, alias: str, version: int, weight: float | None = None) -> None:
    """Announce a move, and return when the gateway knows it."""
    await gateway.publisher.publish(
        AliasMoved(
            event_id=uuid4(),
            policy=gateway.policy,
            alias=alias,
            version=version,
            occurred_at=datetime.now(UTC),
            weight=weight,
        )
    )
    table = gateway.models.table

    def known() -> bool:
        place = table.aliases.get(gateway.policy, {}).get(alias)
        return (place, table.weights.get(gateway.policy, {}).get(alias)) == (version, weight)

    await eventually(known)
