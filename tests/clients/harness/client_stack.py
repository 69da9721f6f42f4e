"""The real gateway as a process, in front of a scripted replica."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import httpx
from pydantic import SecretStr
from scripted_replica import ScriptedReplica

from leyden_local.ports import free_ports
from leyden_platform.http import HttpServer
from leyden_platform.messaging import KafkaPublisher, LogReader, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims, mint
from leyden_schemas import AliasMoved, CompletionRecorded, ModelPublished, Sampling, Split, Topics
from leyden_schemas.deltas import expand

POLICY = "clients"
DEADLINE_S = 60.0
SECRET = "a secret of at least thirty-two characters"


@dataclass(frozen=True)
class Caller:
    """One rollout: what an agent is given to reach the gateway."""

    url: str
    key: str
    claims: RolloutClaims
    agent: str | None = None

    def as_agent(self, agent: str) -> "Caller":
        """The same rollout in another role."""
        return replace(self, agent=agent)

    def with_key(self, key: str) -> "Caller":
        """The same rollout with another key."""
        return replace(self, key=key)

    @property
    def base(self) -> str:
        """Up to, without, ``/v1``."""
        role = f"/agents/{self.agent}" if self.agent else ""
        return f"{self.url}/rollouts/{self.claims.rollout_id}/attempts/{self.claims.attempt}{role}"

    @property
    def openai(self) -> dict[str, str]:
        """Arguments of OpenAI's client."""
        return {"base_url": f"{self.base}/v1", "api_key": self.key}

    @property
    def anthropic(self) -> dict[str, str]:
        """Arguments of Anthropic's client, which adds ``/v1`` itself."""
        return {"base_url": self.base, "api_key": self.key}


@dataclass
class Stack:
    """A gateway with one replica."""

    url: str
    ops_url: str
    kafka: KafkaSettings
    replica: ScriptedReplica

    def caller(
        self,
        *,
        agent: str | None = None,
        split: Split = Split.TRAIN,
        max_completions: int = 50,
        ref: str = "",
    ) -> Caller:
        """A new rollout; ``ref`` is ``@version``, ``#alias`` or nothing."""
        claims = RolloutClaims(
            rollout_id=uuid4(),
            attempt=1,
            tenant="acme",
            run="clients",
            policy=POLICY + ref,
            split=split,
            sampling=Sampling(temperature=0.9),
            max_completions=max_completions,
        )
        return Caller(self.url, mint(claims, SecretStr(SECRET), ttl_s=300), claims, agent)

    def records(self, caller: Caller) -> list[CompletionRecorded]:
        """The rollout's completions that are on the log at this moment, made whole; nothing is waited for."""
        return expanded(asyncio.run(self._read(str(caller.claims.rollout_id).encode())))

    def record(self, caller: Caller) -> CompletionRecorded:
        """The rollout's only completion."""
        (record,) = self.records(caller)
        return record

    def await_record(self, caller: Caller) -> CompletionRecorded:
        """The same for a caller that did not wait for it."""
        eventually(lambda: bool(self.records(caller)), "the record of a caller that hung up")
        return self.record(caller)

    async def _read(self, key: bytes) -> list[CompletionRecorded]:
        found: list[CompletionRecorded] = []
        async with LogReader(self.kafka, Topics.EVENTS.name) as reader, asyncio.timeout(DEADLINE_S):
            ends = await reader.end_offsets()
            while not _reached(await reader.positions(), ends):
                found += [record.message() for record in await reader.poll(0.5) if record.key == key]
        return found

    def calls(self) -> float:
        """How many calls the gateway has answered, refusals included."""
        lines = httpx.get(f"{self.ops_url}/metrics").text.splitlines()
        answered = [line for line in lines if line.startswith("leyden_gateway_requests_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in answered)


def _reached(positions: dict[int, int], ends: dict[int, int]) -> bool:
    return all(positions[number] >= end for number, end in ends.items())


def expanded(records: list[CompletionRecorded]) -> list[CompletionRecorded]:
    """Records of one rollout, in the order of the log, each with its whole prompt and request."""
    whole: dict[UUID, CompletionRecorded] = {}
    for record in records:
        whole[record.completion_id] = expand(record, whole.get)
    return list(whole.values())


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return when ``condition`` holds; fail saying what was awaited."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.05)


@contextmanager
def replica_thread(replica: ScriptedReplica) -> Iterator[str]:
    """Serve the replica from a thread of its own; its URL."""
    server = HttpServer("replica", replica.app(), "127.0.0.1", 0, drain_timeout_s=1)
    server.bind()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.run(stop),))
    thread.start()
    try:
        eventually(lambda: server.not_ready() is None, "the replica to listen")
        yield f"http://127.0.0.1:{server.port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def publish_policy(kafka: KafkaSettings) -> None:
    """Announce version 1, and that it is the one served."""
    publisher, now = KafkaPublisher(kafka, "tests"), datetime.now(UTC)
    await publisher.start()
    await publisher.publish(
        ModelPublished(
            event_id=uuid4(),
            policy=POLICY,
            version=1,
            occurred_at=now,
            artifact="file:///nowhere",
            digest="0",
        )
    )
    await publisher.publish(
        AliasMoved(event_id=uuid4(), policy=POLICY, alias="serving", version=1, occurred_at=now)
    )
    await publisher.stop()


@contextmanager
def running_stack(kafka: KafkaSettings, log: Path) -> Iterator[Stack]:
    """Everything behind the gateway's port; the gateway's own log goes to ``log``."""
    asyncio.run(ensure_topics(kafka, Topics.ALL))
    asyncio.run(publish_policy(kafka))
    replica = ScriptedReplica(models={f"{POLICY}@1"})
    port, ops_port = free_ports(2)
    with replica_thread(replica) as replica_url, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "leyden_gateway"],
            env=gateway_environment(kafka, replica_url, port, ops_port),
            stdout=output,
            stderr=output,
        )
        stack = Stack(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ops_port}", kafka, replica)
        try:
            eventually(lambda: process.poll() is not None or _serves(stack), "the gateway to serve")
            assert process.poll() is None, f"the gateway ended: {log.read_text()[-1500:]}"
            yield stack
        finally:
            process.terminate()
            process.wait(timeout=DEADLINE_S)


def gateway_environment(kafka: KafkaSettings, replica_url: str, port: int, ops_port: int) -> dict[str, str]:
    """The gateway's settings."""
    return os.environ | {
        "LEYDEN_GATEWAY_HOST": "127.0.0.1",
        "LEYDEN_GATEWAY_PORT": str(port),
        "LEYDEN_GATEWAY_REPLICAS": replica_url,
        "LEYDEN_GATEWAY_DRAIN_TIMEOUT_S": "4",
        "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent).lower(),
        "LEYDEN_OPS_HOST": "127.0.0.1",
        "LEYDEN_OPS_PORT": str(ops_port),
        "LEYDEN_TOKEN_SECRET": SECRET,
    }


def _serves(stack: Stack) -> bool:
    """Whether the gateway knows that the replica has the published version."""
    caller = stack.caller()
    try:
        answer = httpx.get(
            f"{caller.openai['base_url']}/models", headers={"Authorization": f"Bearer {caller.key}"}
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and f"{POLICY}@1" in answer.text
