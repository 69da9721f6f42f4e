"""A gateway in the test's own event loop, and the few things tests do with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from vllm_stub import eventually

from leyden_gateway.app import build
from leyden_gateway.routing.lane import Lane
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Upstream
from leyden_gateway.upstream.connection import Connection
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, LogReader, PublishFailed, Record, ensure_topics
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
    expand,
)

SECRET = SecretStr("a secret of at least thirty-two characters")
PUBLISHES = [name for name in vars(KafkaPublisher) if name.startswith("publish")]
"""Every way to publish."""
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
    upstream: Upstream
    log: "Log"

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
        http = openai.DefaultAsyncHttpxClient(verify=False)  # loading authorities takes longer than a call
        return openai.AsyncOpenAI(
            base_url=base_url, api_key=self.token(claims), max_retries=0, http_client=http
        )

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
        async with httpx.AsyncClient(timeout=30, verify=False) as client:
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
        """The rollout's records, or all since this gateway runs, that are on the log at this moment."""
        await self.log.catch_up()
        return self.log.of(rollout_id)

    async def completions(self, rollout_id: UUID, count: int = 1) -> list[CompletionRecorded]:
        """The rollout's completions, whole, as soon as there are at least ``count``."""
        async with asyncio.timeout(10):
            while len(self.log.of(rollout_id)) < count:
                await self.log.more()
            found = await self.log_now(rollout_id)
        whole: dict[UUID, CompletionRecorded] = {}
        for record in found:
            message = record.message()
            whole[message.completion_id] = expand(message, whole.get)
        return list(whole.values())

    async def rest(self) -> None:
        """Return when no call is in hand; fail when something of one is left over: a connection, a place."""
        await eventually(lambda: not self.metric("leyden_gateway_in_flight"))
        await eventually(lambda: not [lane.in_flight for lane in self._lanes() if lane.in_flight])
        await eventually(lambda: not busy_connections(self.upstream))

    def _lanes(self) -> list[Lane]:
        return [self.replicas.lane(state.url) for state in self.replicas.states()]

    def metric(self, name: str, **labels: str) -> float:
        """The sum now of a metric's samples that have these labels, whatever others they have."""
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


class Log:
    """The events topic from now on, read as it is asked for."""

    def __init__(self, reader: LogReader) -> None:
        self.records: list[Record] = []
        self._reader, self._turn = reader, asyncio.Lock()

    def of(self, rollout_id: UUID | None) -> list[Record]:
        """What has been read of a rollout, or of all."""
        key = str(rollout_id).encode()
        return [record for record in self.records if rollout_id is None or record.key == key]

    async def catch_up(self) -> None:
        """Read up to the end as it is now."""
        async with self._turn:
            ends = await self._reader.end_offsets()
            while not _reached(await self._reader.positions(), ends):
                self.records += await self._reader.poll(0.5)

    async def more(self) -> None:
        """Return when something has arrived, or after a moment."""
        async with self._turn:
            self.records += await self._reader.poll(0.1)


def _reached(positions: dict[int, int], ends: dict[int, int]) -> bool:
    return all(positions[number] >= end for number, end in ends.items())


async def log_from_now(kafka: KafkaSettings, open_until: AsyncExitStack) -> Log:
    """The events that come from now on, while ``open_until`` is open."""
    async with LogReader(kafka, Topics.EVENTS.name) as reader:
        ends = await reader.end_offsets()
    reader = await open_until.enter_async_context(LogReader(kafka, Topics.EVENTS.name, ends))
    fetcher: Any = reader._consumer._fetcher  # type: ignore[union-attr]
    fetcher._fetch_max_wait_ms = 10  # the embedded broker does not notice records while a fetch waits
    return Log(reader)


def busy_connections(upstream: Upstream) -> list[Connection]:
    """Connections to replicas that are open and not waiting for another call."""
    return [
        connection for pool in upstream._pools.values() for connection in pool._open if not connection.usable
    ]


def hold_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Events are published only once what is returned is set; other topics at once."""
    acknowledged = asyncio.Event()

    def held(publish: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def wait(self: KafkaPublisher, *what: Any, **how: Any) -> None:
            if Topics.EVENTS.name in what or any(isinstance(one, CompletionRecorded) for one in what):
                try:
                    await asyncio.wait_for(acknowledged.wait(), self._timeout_s)
                except TimeoutError:
                    raise PublishFailed(f"not acknowledged within {self._timeout_s:g} s") from None
            await publish(self, *what, **how)

        return wait

    for name in PUBLISHES:
        monkeypatch.setattr(KafkaPublisher, name, held(getattr(KafkaPublisher, name)))
    return acknowledged


def refuse_to_publish(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """The broker refuses everything."""

    async def refuse(*_what: Any, **_how: Any) -> None:
        raise failure

    for name in PUBLISHES:
        monkeypatch.setattr(KafkaPublisher, name, refuse)


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
        **{"drain_timeout_s": 10, **settings},
    )
    components = await build(chosen)
    stop = asyncio.Event()
    running = asyncio.create_task(run_components("gateway", chosen, components, stop))
    try:
        await eventually(lambda: not [c for c in components if c.not_ready()])
        async with AsyncExitStack() as open_until:
            log = await log_from_now(kafka, open_until)
            yield _gateway(kafka, policy, components, log)
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await running


def _gateway(kafka: KafkaSettings, policy: str, components: Any, log: Log) -> Gateway:
    parts = {type(component): component for component in components}
    return Gateway(
        url=f"http://127.0.0.1:{parts[HttpServer].port}",
        kafka=kafka,
        policy=policy,
        publisher=parts[KafkaPublisher],
        models=parts[ModelsTable],
        replicas=parts[Replicas],
        upstream=parts[Upstream],
        log=log,
    )


__all__ = [
    "CALCULATOR",
    "SECRET",
    "Gateway",
    "busy_connections",
    "hold_acknowledgements",
    "log_from_now",
    "refuse_to_publish",
    "running_gateway",
]
