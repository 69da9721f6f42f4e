"""A gateway in the test's own event loop, and the few things tests do with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
from prometheus_client import REGISTRY
from pydantic import SecretStr
from vllm_stub import eventually

from leyden_gateway.app import build
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.settings import GatewaySettings
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, LogReader, Record, ensure_topics
from leyden_platform.service import run_components
from leyden_platform.settings import KafkaSettings, OpsSettings
from leyden_platform.tokens import RolloutClaims, TokenSettings, mint
from leyden_schemas import (
    AliasMoved,
    CompletionRecorded,
    ModelPublished,
    Sampling,
    Split,
    Topics,
)

SECRET = SecretStr("a secret of at least thirty-two characters")
CALCULATOR: Any = {
    "type": "function",
    "function": {
        "name": "calculator",
        "strict": True,
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@dataclass
class Gateway:
    """A running gateway. Each test has a policy of its own, because they share the broker's models topic."""

    url: str
    kafka: KafkaSettings
    policy: str
    publisher: KafkaPublisher
    models: ModelsTable
    replicas: Replicas

    def claims(
        self,
        ref: str = "",
        split: Split = Split.TRAIN,
        max_completions: int = 100,
        traceparent: str | None = None,
    ) -> RolloutClaims:
        """Claims of a new rollout's second attempt; ``ref`` is ``@version``, ``#alias`` or nothing."""
        return RolloutClaims(
            rollout_id=uuid4(),
            attempt=2,
            tenant="acme",
            run="tests",
            policy=self.policy + ref,
            split=split,
            sampling=Sampling(temperature=0.9),
            max_completions=max_completions,
            traceparent=traceparent,
        )

    def token(self, claims: RolloutClaims, ttl_s: float = 60) -> str:
        """A signed token."""
        return mint(claims, SECRET, ttl_s=ttl_s)

    def base_url(self, claims: RolloutClaims, agent: str | None = None) -> str:
        """What the runner gives to agents."""
        role = f"/agents/{agent}" if agent else ""
        return f"{self.url}/rollouts/{claims.rollout_id}/attempts/{claims.attempt}{role}/v1"

    def client(
        self, claims: RolloutClaims, *, agent: str | None = None, path: bool = True
    ) -> openai.AsyncOpenAI:
        """The real client library, set up as an agent's environment would."""
        base_url = self.base_url(claims, agent) if path else f"{self.url}/v1"
        return openai.AsyncOpenAI(base_url=base_url, api_key=self.token(claims), max_retries=0)

    async def post(
        self,
        claims: RolloutClaims | None,
        body: Any = None,
        *,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """A plain HTTP call, for what client libraries hide."""
        url = self.base_url(claims) if claims else f"{self.url}/v1"
        own = {"Authorization": f"Bearer {self.token(claims)}"} if claims else {}
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.post(
                f"{url}/chat/completions",
                headers={**own, **(headers or {})},
                **({"json": body} if content is None else {"content": content}),
            )

    async def publish_policy(self, versions: list[int], serving: int | None = None) -> None:
        """Announce versions, and what ``serving`` names; return when the gateway has noticed."""
        now = datetime.now(UTC)
        for version in versions:
            await self.publisher.publish(
                ModelPublished(
                    event_id=uuid4(),
                    policy=self.policy,
                    version=version,
                    occurred_at=now,
                    artifact="file:///nowhere",
                    digest="0",
                )
            )
        if serving is not None:
            await self.publisher.publish(
                AliasMoved(
                    event_id=uuid4(), policy=self.policy, alias="serving", version=serving, occurred_at=now
                )
            )
        table = self.models.table
        await eventually(lambda: set(versions) <= table.versions.get(self.policy, set()))
        if serving is not None:
            await eventually(lambda: table.aliases.get(self.policy, {}).get("serving") == serving)

    async def log_now(self, rollout_id: UUID | None = None) -> list[Record]:
        """The rollout's (or all) records that are on the log at this moment; nothing is waited for."""
        keys = (str(rollout_id).encode(),) if rollout_id else None
        found = []
        async with LogReader(self.kafka, Topics.EVENTS.name) as reader:
            ends = await reader.end_offsets()
            while not _reached(await reader.positions(), ends):
                found += [r for r in await reader.poll(0.5) if keys is None or r.key in keys]
        return found

    async def completions(self, rollout_id: UUID, count: int = 1) -> list[CompletionRecorded]:
        """The rollout's completions, as soon as there are at least ``count``."""
        async with asyncio.timeout(10):
            while len(found := await self.log_now(rollout_id)) < count:
                pass
        return [record.message() for record in found]

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value now."""
        return REGISTRY.get_sample_value(name, labels) or 0.0


def _reached(positions: dict[int, int], ends: dict[int, int]) -> bool:
    return all(positions[number] >= end for number, end in ends.items())


@asynccontextmanager
async def running_gateway(
    kafka: KafkaSettings, policy: str, *replicas: str, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port until the block ends; it must then stop cleanly."""
    await ensure_topics(kafka, Topics.ALL)
    chosen = GatewaySettings(
        kafka=kafka,
        token=TokenSettings(secret=SECRET),
        host="127.0.0.1",
        port=0,
        ops=OpsSettings(host="127.0.0.1", port=0),
        replicas=replicas,
        poll_interval_s=0.5,
        poll_urgent_s=0.02,
        drain_timeout_s=10,
        **settings,
    )
    components = await build(chosen)
    stop = asyncio.Event()
    running = asyncio.create_task(run_components("gateway", chosen, components, stop))
    try:
        await eventually(lambda: not [c for c in components if c.not_ready()])
        yield _gateway(kafka, policy, components)
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await running


def _gateway(kafka: KafkaSettings, policy: str, components: Any) -> Gateway:
    parts = {type(component): component for component in components}
    return Gateway(
        url=f"http://127.0.0.1:{parts[HttpServer].port}",
        kafka=kafka,
        policy=policy,
        publisher=parts[KafkaPublisher],
        models=parts[ModelsTable],
        replicas=parts[Replicas],
    )


__all__ = ["CALCULATOR", "SECRET", "Gateway", "running_gateway"]
