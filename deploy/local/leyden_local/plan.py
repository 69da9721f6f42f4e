"""Which processes a stack is made of, in the order they start: a pure function of configuration and ports."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from leyden_local.broker import broker_command
from leyden_local.config import StackConfig
from leyden_local.ports import HOST
from leyden_local.postgres import database_url, postgres_command, unprivileged_user
from leyden_local.state import Endpoints, StackFolder

SERVICES = ("registry", "inference", "gateway", "runner", "reward", "credit", "learner")


class Stage(StrEnum):
    """What has to be up before the next stage starts."""

    INFRASTRUCTURE = "infrastructure"
    REGISTRY = "registry"
    SERVICES = "services"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of a stack."""

    kafka: int
    postgres: int
    gateway: int
    inference: int
    registry: int
    ops: Mapping[str, int]

    @staticmethod
    def needed() -> int:
        """How many free ports a stack takes."""
        return 5 + len(SERVICES)

    @classmethod
    def of(cls, free: list[int], config: StackConfig) -> "Ports":
        """Ports from a list of free ones; those the configuration fixes are taken from it."""
        return cls(
            kafka=config.kafka_port or free[0],
            postgres=free[1],
            gateway=config.gateway_port or free[2],
            inference=free[3],
            registry=free[4],
            ops=dict(zip(SERVICES, free[5:], strict=True)),
        )

    def endpoints(self) -> Endpoints:
        """Where the user reaches the stack."""
        return Endpoints(
            kafka=f"{HOST}:{self.kafka}",
            database=database_url(self.postgres),
            gateway=f"http://{HOST}:{self.gateway}",
            registry=f"http://{HOST}:{self.registry}",
            inference=f"http://{HOST}:{self.inference}",
        )


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to start one process and how to tell that it is up."""

    name: str
    stage: Stage
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    port: int | None = None
    ops_port: int | None = None
    restart: bool = True
    interrupt: bool = False
    """Whether SIGINT, not SIGTERM, asks for a quick clean stop (Postgres)."""


def plan(
    config: StackConfig, folder: StackFolder, ports: Ports, data: Path, secret: str
) -> list[ProcessSpec]:
    """The processes of the stack, infrastructure first. ``data`` is the database's folder."""
    infrastructure = [
        ProcessSpec(
            "kafka", Stage.INFRASTRUCTURE, broker_command(ports.kafka), port=ports.kafka, restart=False
        ),
        ProcessSpec(
            "postgres",
            Stage.INFRASTRUCTURE,
            postgres_command(data, ports.postgres),
            user=unprivileged_user(),
            port=ports.postgres,
            interrupt=True,
        ),
    ]
    shared = _shared_environment(config, ports, secret)
    own = _own_environment(config, folder, ports)
    names = [name for name in SERVICES if config.train or name != "learner"]
    return infrastructure + [
        ProcessSpec(
            name,
            Stage.REGISTRY if name == "registry" else Stage.SERVICES,
            [sys.executable, "-m", f"leyden_{name}"],
            environment=shared
            | {"LEYDEN_OPS_PORT": str(ports.ops[name])}
            | own.get(name, {})
            | config.settings,
            ops_port=ports.ops[name],
        )
        for name in names
    ]


def _shared_environment(config: StackConfig, ports: Ports, secret: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEYDEN_")}
    endpoints = ports.endpoints()
    return inherited | {
        "LEYDEN_KAFKA_BOOTSTRAP": endpoints.kafka,
        "LEYDEN_KAFKA_IDEMPOTENT": "false",
        "LEYDEN_KAFKA_SESSION_TIMEOUT_S": "6",
        "LEYDEN_DATABASE_URL": endpoints.database,
        "LEYDEN_OPS_HOST": HOST,
        "LEYDEN_TOKEN_SECRET": secret,
        "LEYDEN_CATALOGUE_PATH": json.dumps([str(folder.resolve()) for folder in config.path]),
        "LEYDEN_CATALOGUE_REWARDS": json.dumps(config.rewards),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _own_environment(config: StackConfig, folder: StackFolder, ports: Ports) -> dict[str, dict[str, str]]:
    endpoints = ports.endpoints()
    return {
        "registry": {"LEYDEN_REGISTRY_HOST": HOST, "LEYDEN_REGISTRY_PORT": str(ports.registry)},
        "inference": {"LEYDEN_INFERENCE_HOST": HOST, "LEYDEN_INFERENCE_PORT": str(ports.inference)},
        "gateway": {
            "LEYDEN_GATEWAY_HOST": HOST,
            "LEYDEN_GATEWAY_PORT": str(ports.gateway),
            "LEYDEN_GATEWAY_REPLICAS": endpoints.inference,
        },
        "runner": {
            "LEYDEN_RUNNER_GATEWAY_URL": endpoints.gateway,
            "LEYDEN_RUNNER_AGENTS": json.dumps(config.agents),
        },
        "learner": {
            "LEYDEN_LEARNER_POLICY": config.policy,
            "LEYDEN_LEARNER_RUN": config.run,
            "LEYDEN_LEARNER_REGISTRY_URL": endpoints.registry,
            "LEYDEN_LEARNER_SERVERS": json.dumps([endpoints.inference]),
            "LEYDEN_LEARNER_CHECKPOINT_DIR": str(folder.checkpoints),
            "LEYDEN_LEARNER_THREADS": "1",
        },
    }
