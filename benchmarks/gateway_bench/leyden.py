"""Leyden itself: the real service, recording to a real broker that was seeded as the registry would."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from pydantic import SecretStr

from gateway_bench import watch
from gateway_bench.eventlog import EventLog
from gateway_bench.load import Call
from gateway_bench.payload import MODEL
from gateway_bench.processes import Cores, await_answer, spawned
from gateway_bench.subjects import Running, Site, answers
from leyden_gateway.settings import GatewaySettings
from leyden_local.broker import broker_command
from leyden_local.ports import HOST, accepts, free_ports
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims, mint
from leyden_schemas import AliasMoved, ModelPublished, Sampling, Split, Topics

POLICY, VERSION = MODEL.split("@")[0], int(MODEL.split("@")[1])
SECRET = SecretStr("the benchmark's own secret, 32 characters or more")
_TOKEN_S = 24 * 3600


class Leyden:
    """``python -m leyden_gateway``. ``connections`` is how many calls it must be able to hold."""

    streams = True

    def __init__(
        self,
        name: str = "leyden",
        *,
        processes: int = 1,
        rollouts: int = 4000,
        connections: int = 1024,
        ids: Sequence[UUID] = (),
    ) -> None:
        self.name, self._processes, self._connections = name, processes, connections
        self._ids = list(ids) or [uuid4() for _ in range(rollouts)]

    def unavailable(self) -> str | None:
        """It is the environment this runs in."""
        if self._processes > 1 and "processes" not in GatewaySettings.model_fields:
            return "this gateway has no setting LEYDEN_GATEWAY_PROCESSES"
        return None

    @contextlib.contextmanager
    def running(self, site: Site) -> Iterator[Running]:
        """Broker, topics, a published and promoted version, then the gateway."""
        port, ops_port = free_ports(2)
        with _broker(site.folder, site.cores) as (kafka, broker_pid):
            asyncio.run(_seed(kafka))
            log = site.folder / "leyden.log"
            env = self._environment(site, kafka, port, ops_port)
            probe = uuid4()
            (probing,) = calls_of([probe])
            command = [sys.executable, "-m", "leyden_gateway"]
            with spawned(command, cores=site.cores.subject, log=log, env=env) as process:
                await_answer(process, log, lambda: answers(port, probing))
                pids = {"subject": watch.tree(process.pid), "broker": [broker_pid]}
                yield Running(port, calls_of(self._ids), pids, EventLog(kafka, probe))

    def _environment(self, site: Site, kafka: KafkaSettings, port: int, ops_port: int) -> dict[str, str]:
        return {
            "LEYDEN_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "LEYDEN_KAFKA_IDEMPOTENT": str(kafka.idempotent).lower(),
            "LEYDEN_TOKEN_SECRET": SECRET.get_secret_value(),
            "LEYDEN_GATEWAY_HOST": HOST,
            "LEYDEN_GATEWAY_PORT": str(port),
            "LEYDEN_GATEWAY_REPLICAS": site.upstream,
            "LEYDEN_GATEWAY_POOL_SIZE": str(self._connections),
            "LEYDEN_GATEWAY_PROCESSES": str(self._processes),
            "LEYDEN_OPS_HOST": HOST,
            "LEYDEN_OPS_PORT": str(ops_port),
        }


def calls_of(ids: Sequence[UUID]) -> list[Call]:
    """The base URL and token that a runner would give to the agent of each rollout."""
    return [
        Call(
            f"/rollouts/{rollout_id}/attempts/1/v1/chat/completions",
            mint(_claims(rollout_id), SECRET, ttl_s=_TOKEN_S),
        )
        for rollout_id in ids
    ]


def _claims(rollout_id: UUID) -> RolloutClaims:
    return RolloutClaims(
        rollout_id=rollout_id,
        attempt=1,
        tenant="default",
        run="benchmark",
        policy=POLICY,
        split=Split.TRAIN,
        sampling=Sampling(temperature=1.0),
        max_completions=1_000_000,
    )


@contextlib.contextmanager
def _broker(folder: Path, cores: Cores) -> Iterator[tuple[KafkaSettings, int]]:
    (port,) = free_ports(1)
    log = folder / "broker.log"
    with spawned(broker_command(port), cores=cores.load, log=log) as process:
        await_answer(process, log, lambda: accepts(port))
        yield KafkaSettings(bootstrap=f"{HOST}:{port}", idempotent=False), process.pid


async def _seed(kafka: KafkaSettings) -> None:
    """What the registry has said: a version exists, and it is the one to serve."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "benchmark")
    await publisher.start()
    now = datetime.now(UTC)
    await publisher.publish(
        ModelPublished(
            event_id=uuid4(),
            policy=POLICY,
            version=VERSION,
            occurred_at=now,
            artifact="file:///nowhere",
            digest="0",
        ),
        AliasMoved(event_id=uuid4(), policy=POLICY, alias="serving", version=VERSION, occurred_at=now),
    )
    await publisher.stop()
