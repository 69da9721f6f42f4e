"""A fleet for routing tests: the real tables, router and dispatcher over an upstream that is scripted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from pydantic import SecretStr

from leyden_gateway.exchange.training_mode import Prepared
from leyden_gateway.recording.record import Call
from leyden_gateway.routing.changes import Changes
from leyden_gateway.routing.choice import Choice
from leyden_gateway.routing.dispatch import Dispatcher
from leyden_gateway.routing.externals import External, Externals
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.routing.router import Router
from leyden_gateway.routing.settings import RoutingSettings
from leyden_gateway.settings import GatewaySettings
from leyden_gateway.upstream.client import Upstream
from leyden_gateway.upstream.errors import ReplicaUnavailable, UpstreamRefused
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import TokenSettings
from leyden_schemas import AliasMoved, ModelPublished

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = "calculator"
A, B, C = "http://a:1", "http://b:1", "http://c:1"


def published(version: int, policy: str = POLICY) -> ModelPublished:
    """A version was announced."""
    return ModelPublished(
        event_id=uuid4(), policy=policy, version=version, occurred_at=NOW, artifact="file:///x", digest="d"
    )


def moved(
    version: int, alias: str = "serving", policy: str = POLICY, weight: float | None = None
) -> AliasMoved:
    """An alias was announced."""
    return AliasMoved(
        event_id=uuid4(), policy=policy, alias=alias, version=version, occurred_at=NOW, weight=weight
    )


@dataclass
class FakeAnswer:
    """An answer that has begun."""

    on_close: Callable[[], None] | None = None
    closed: bool = False

    def close(self) -> None:
        """As the real one: tells once."""
        if not self.closed:
            self.closed = True
            if self.on_close:
                self.on_close()


@dataclass
class Sent:
    """One send."""

    url: str
    path: str
    body: bytes
    headers: dict[str, str]
    cancelled: bool = False


async def begin(_sent: Sent) -> FakeAnswer:
    """The server answers."""
    return FakeAnswer()


@dataclass
class FakeUpstream:
    """``answers`` says what a server does, by URL; those not named answer. Closed answers are counted."""

    models_of: dict[str, set[str]]
    answers: dict[str, Callable[[Sent], Awaitable[FakeAnswer]]] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)

    async def models(self, url: str, *, timeout_s: float) -> frozenset[str]:
        """What the replica serves, or that it is down."""
        assert timeout_s > 0
        if url not in self.models_of:
            raise ReplicaUnavailable("poll", f"{url} is down")
        return frozenset(self.models_of[url])

    async def send(self, url: str, path: str, body: bytes, headers: dict[str, str]) -> FakeAnswer:
        """Do as scripted."""
        sent = Sent(url, path, body, headers)
        self.sent.append(sent)
        try:
            return await self.answers.get(url, begin)(sent)
        except asyncio.CancelledError:
            sent.cancelled = True
            raise

    def urls(self) -> list[str]:
        """Where calls went, in order."""
        return [sent.url for sent in self.sent]


def refuses(status: int, body: bytes = b"{}", **headers: str) -> Callable[[Sent], Awaitable[FakeAnswer]]:
    """A server that answers with an error, as the real client reports it."""

    async def refuse(sent: Sent) -> FakeAnswer:
        refusal = UpstreamRefused(
            status, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        if status in (502, 503):
            raise ReplicaUnavailable(str(status), f"{sent.url} answered {status}", refusal)
        raise refusal

    return refuse


def unreachable(reason: str = "disconnected") -> Callable[[Sent], Awaitable[FakeAnswer]]:
    """A server that hangs up, or is not there (``connection``)."""

    async def fail(sent: Sent) -> FakeAnswer:
        raise ReplicaUnavailable(reason, f"{sent.url} is gone")

    return fail


@dataclass
class FakeCall:
    """What the dispatcher reads and fills in of a call."""

    rollout_id: UUID = field(default_factory=uuid4)
    policy_ref: str = POLICY
    choice: Choice | None = None
    sent: float | None = None
    queued_s: float = 0.0
    trace: dict[str, str] = field(default_factory=dict)

    @property
    def attribution(self) -> SimpleNamespace:
        """Whose call it is."""
        return SimpleNamespace(rollout_id=self.rollout_id)

    @property
    def replica(self) -> str:
        """Where it went."""
        assert self.choice
        return self.choice.replica


PREPARED = cast(
    "Prepared", SimpleNamespace(path="/v1/chat/completions", encode=lambda model: b"to " + model.encode())
)


@dataclass
class Fleet:
    """Everything between a call and the upstream."""

    upstream: FakeUpstream
    changes: Changes
    models: ModelsTable
    replicas: Replicas
    externals: Externals
    router: Router
    dispatcher: Dispatcher

    def apply(self, *events: ModelPublished | AliasMoved) -> None:
        """Announce."""
        for event in events:
            self.models.table.apply(event)
        self.changes.announce()

    async def open(self, call: FakeCall, external: External | None = None) -> FakeAnswer:
        """Dispatch a call."""
        return cast("FakeAnswer", await self.dispatcher.open(cast("Call", call), PREPARED, external=external))


@asynccontextmanager
async def fleet(
    *urls: str,
    models: dict[str, set[str]] | None = None,
    park_timeout_s: float = 5.0,
    attempts: int = 3,
    poll_interval_s: float = 0.05,
    **routing: Any,
) -> AsyncIterator[Fleet]:
    """Replicas that serve version 1, which is ``serving``, unless ``models`` says otherwise."""
    upstream = FakeUpstream(
        {url: {f"{POLICY}@1"} for url in urls} if models is None else {u: set(m) for u, m in models.items()}
    )
    settings = GatewaySettings(
        token=TokenSettings(secret=SecretStr("x" * 32)),
        replicas=urls or (A,),
        poll_interval_s=poll_interval_s,
        poll_urgent_s=0.01,
        routing=RoutingSettings(**routing),
    )
    changes = Changes()
    replicas = Replicas(settings, cast("Upstream", upstream), changes)
    known = ModelsTable(KafkaSettings(), changes, replicas.expect_change)
    known.caught_up = True
    router = Router(known, replicas, changes, park_timeout_s=park_timeout_s)
    made = Fleet(
        upstream,
        changes,
        known,
        replicas,
        Externals(settings.routing, changes.announce),
        router,
        Dispatcher(router, replicas, cast("Upstream", upstream), settings.routing, attempts=attempts),
    )
    made.apply(published(1), moved(1))
    stop = asyncio.Event()
    looking = asyncio.create_task(replicas.run(stop))
    try:
        await until(lambda: replicas.not_ready() is None)
        yield made
    finally:
        stop.set()
        await looking


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return when ``condition`` holds; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
