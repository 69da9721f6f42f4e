"""The runner put together: the only place that knows the concrete classes."""

import os
import shutil
import socket
from collections.abc import Sequence
from uuid import uuid4

from leyden_platform.clock import SystemClock
from leyden_platform.database import OutboxRelay, create_engine, migrate
from leyden_platform.messaging import (
    ConsumerGroup,
    KafkaPublisher,
    Partition,
    Processor,
    Stateless,
    ensure_topics,
)
from leyden_platform.service import Component
from leyden_runner.attempts import Access, Attempts
from leyden_runner.environment import inherited
from leyden_runner.executors.base import Bounds, Executor
from leyden_runner.executors.callable import CallableExecutor
from leyden_runner.executors.command import CommandExecutor
from leyden_runner.executors.launcher import AgentsUnusable, Launcher
from leyden_runner.gateway import GatewayProbe
from leyden_runner.handlers import RolloutProcessor, TaskIntake
from leyden_runner.intake import Known
from leyden_runner.ledger import PostgresLedger
from leyden_runner.policies import Policies
from leyden_runner.retries import RetryPolicy
from leyden_runner.rollouts import Options, Rollouts
from leyden_runner.settings import (
    Agent,
    CallableAgent,
    CommandAgent,
    RunnerSettings,
    rollout_topic,
    task_topic,
)
from leyden_runner.tables import OUTBOX, SCHEMA
from leyden_schemas import BASE_QUEUE


async def build(settings: RunnerSettings) -> Sequence[Component]:
    """The components in starting order. They stop in reverse: rollouts first, the publisher last."""
    await migrate(settings.database, package="leyden_runner", schema=SCHEMA)
    await _ensure_queues(settings)
    publisher = KafkaPublisher(settings.kafka, source="runner")
    await publisher.start()
    engine = create_engine(settings.database)
    relay = OutboxRelay(engine, OUTBOX, publisher, "runner")
    policies = Policies(settings.kafka, patience_s=settings.policy_wait_s)
    launcher = agents_launcher(settings)
    owner, clock = owner_name(), SystemClock()
    ledger = PostgresLedger(engine, owner=owner, lease_s=settings.lease_s, clock=clock)
    gateway = GatewayProbe(str(settings.gateway_url))
    attempts = Attempts(
        ledger,
        executors(settings, launcher),
        publisher,
        gateway,
        Access(str(settings.gateway_url), settings.token.secret),
        owner=owner,
        clock=clock,
        retry=RetryPolicy(settings.retry_backoff_s, settings.retry_backoff_max_s),
        announce=relay.wake,
    )
    rollouts = Rollouts(attempts, ledger, gateway, options(settings))
    known = Known(frozenset(settings.agents), settings.catalogue.rewards.keys())
    intake = TaskIntake(known, policies, publisher, settings.max_task_bytes)

    def task_processor(_partition: Partition) -> Processor:
        return Stateless(intake.handle)

    def rollout_processor(_partition: Partition) -> Processor:
        return RolloutProcessor(rollouts)

    tasks_group = ConsumerGroup(
        settings.kafka,
        topics=[task_topic(queue).name for queue in settings.queues],
        group=f"{settings.group}-tasks",
        factory=task_processor,
        publisher=publisher,
    )
    rollouts_group = ConsumerGroup(
        settings.kafka,
        topics=[rollout_topic(queue).name for queue in settings.queues],
        group=f"{settings.group}-rollouts",
        factory=rollout_processor,
        publisher=publisher,
    )
    return [publisher, relay, policies, launcher, tasks_group, rollouts_group, rollouts]


async def _ensure_queues(settings: RunnerSettings) -> None:
    """The topics of extra queues are this service's own to create; the product's are made for all."""
    extra = [queue for queue in settings.queues if queue != BASE_QUEUE]
    await ensure_topics(
        settings.kafka, [topic(queue) for queue in extra for topic in (task_topic, rollout_topic)]
    )


def owner_name() -> str:
    """A name for this process that no other one, before or after, has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


def agents_launcher(settings: RunnerSettings) -> Launcher:
    """The launcher that has every callable agent imported."""
    return Launcher(
        [agent.callable for agent in settings.agents.values() if isinstance(agent, CallableAgent)],
        path=settings.catalogue.path,
        env=inherited(os.environ, settings.pass_env),
        start_timeout_s=settings.preload_timeout_s,
    )


def executors(settings: RunnerSettings, launcher: Launcher) -> dict[str, Executor]:
    """An executor for each agent. Raises ``AgentsUnusable`` when a command's program does not exist."""
    return {name: _executor(name, agent, settings, launcher) for name, agent in settings.agents.items()}


def _executor(name: str, agent: Agent, settings: RunnerSettings, launcher: Launcher) -> Executor:
    bounds = Bounds(settings.max_output_bytes, settings.log_tail_bytes, settings.kill_grace_s)
    base = {**inherited(os.environ, settings.pass_env), **agent.env}
    match agent:
        case CallableAgent(callable=target):
            return CallableExecutor(launcher, target, base, bounds)
        case CommandAgent(command=command, cwd=cwd):
            if shutil.which(command[0], path=base.get("PATH")) is None:
                raise AgentsUnusable(f"agent {name!r}: there is no program {command[0]!r} on the PATH")
            return CommandExecutor(launcher, command, cwd, base, bounds)


def options(settings: RunnerSettings) -> Options:
    """The part of the settings that bounds and times the work."""
    return Options(
        concurrency=settings.concurrency,
        heartbeat_s=settings.heartbeat_s,
        grace_s=settings.grace_s,
        give_back_s=settings.kill_grace_s + 2.0,
        retention_s=settings.retention_days * 86_400,
    )
