"""Everything the runner can be told, read once from the environment."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, HttpUrl, Tag, model_validator
from pydantic_settings import SettingsConfigDict

from leyden_platform.settings import CatalogueSettings, DatabaseSettings, ServiceSettings
from leyden_platform.tokens import TokenSettings
from leyden_schemas import BASE_QUEUE, QUEUE_NAME, Topic, Topics

_ENVELOPE_BYTES = 64 * 1024


class _Agent(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    env: dict[str, str] = Field(default_factory=dict, description="Added to every rollout's environment.")


class CallableAgent(_Agent):
    """A Python function, sync or async, called with the task's ``input``; its return value is the output."""

    callable: str = Field(pattern=r"^[\w.]+:[\w.]+$", description='"package.module:function"')


class CommandAgent(_Agent):
    """A program that reads the task as JSON from standard input; the last line it prints is the output."""

    command: list[str] = Field(min_length=1, description="The program and its arguments.")
    cwd: str | None = Field(default=None, description="Working folder; the runner's when not given.")


def _kind(value: Any) -> str:
    named = value if isinstance(value, dict) else value.__dict__
    return "command" if "command" in named else "callable"


Agent = Annotated[
    Annotated[CallableAgent, Tag("callable")] | Annotated[CommandAgent, Tag("command")], Discriminator(_kind)
]


class RunnerSettings(ServiceSettings):
    """Settings of the runner (``LEYDEN_RUNNER_…``, and the shared groups)."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_RUNNER_", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    token: TokenSettings = Field(default_factory=TokenSettings)
    catalogue: CatalogueSettings = Field(default_factory=CatalogueSettings)

    agents: dict[str, Agent] = Field(
        default_factory=dict,
        description='Agents by name as JSON: {"default": {"callable": "my.agent:solve"}} '
        'or {"default": {"command": ["python", "agent.py"]}}',
    )
    gateway_url: HttpUrl = Field(
        default=HttpUrl("http://localhost:8000"), description="Where agents reach the gateway."
    )
    concurrency: int = Field(default=16, ge=1, le=4096, description="Rollouts executed at once.")
    queues: list[Annotated[str, Field(pattern=f"^{QUEUE_NAME}$")]] = Field(
        default_factory=lambda: [BASE_QUEUE],
        min_length=1,
        description='Queues to serve as JSON; "default" is leyden.tasks.v1, "gpu" is leyden.tasks.v1.gpu.',
    )
    group: str = Field(
        default="leyden-runner",
        description="Prefix of the consumer groups; runners with other queues take another.",
    )
    lease_s: float = Field(
        default=15.0, gt=0, description="How long a silent runner keeps an attempt from the others."
    )
    heartbeat_s: float = Field(
        default=5.0, gt=0, description="Seconds between lease renewals; at most half a lease."
    )
    retry_backoff_s: float = Field(default=1.0, gt=0, description="Pause before the second attempt; doubles.")
    retry_backoff_max_s: float = Field(default=30.0, gt=0, description="Longest pause between attempts.")
    kill_grace_s: float = Field(default=2.0, ge=0, description="Between SIGTERM and SIGKILL of an agent.")
    policy_wait_s: float = Field(
        default=5.0, ge=0, description="How long a task may wait for its policy to be announced."
    )
    preload_timeout_s: float = Field(
        default=120.0, gt=0, description="Longest import of the agents' modules."
    )
    max_task_bytes: int = Field(default=1024 * 1024, gt=0, description="Largest task message accepted.")
    max_output_bytes: int = Field(
        default=1024 * 1024, gt=0, description="Largest output of an agent, as JSON."
    )
    log_tail_bytes: int = Field(default=8 * 1024, ge=0, description="How much of an agent's log is reported.")
    pass_env: list[str] = Field(
        default_factory=list,
        description="Names of the runner's own variables that agents see too, as JSON.",
    )
    retention_days: float = Field(
        default=30.0, gt=0, description="How long finished rollouts stay in the ledger; outlive the topics."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s:g} must be at most half of lease_s={self.lease_s:g}, "
                "or one late renewal loses every attempt"
            )
        if self.max_task_bytes + _ENVELOPE_BYTES > self.kafka.max_message_bytes:
            raise ValueError(
                f"max_task_bytes={self.max_task_bytes} must be at least {_ENVELOPE_BYTES} below "
                f"LEYDEN_KAFKA_MAX_MESSAGE_BYTES={self.kafka.max_message_bytes}: "
                "the start of a rollout repeats its task"
            )
        if not self.agents:
            raise ValueError(
                "name at least one agent, for example "
                'LEYDEN_RUNNER_AGENTS={"default": {"callable": "my.agent:solve"}}'
            )
        return self

    @property
    def grace_s(self) -> float:
        """How long running agents may go on after SIGTERM, leaving time to give back the rest."""
        return max(0.0, self.drain_timeout_s - self.kill_grace_s - 3.0)


def task_topic(queue: str) -> Topic:
    """The topic that carries a queue's tasks."""
    return _queue(Topics.TASKS, queue)


def rollout_topic(queue: str) -> Topic:
    """The topic that carries a queue's rollouts."""
    return _queue(Topics.ROLLOUTS, queue)


def _queue(base: Topic, queue: str) -> Topic:
    name = base.name if queue == BASE_QUEUE else f"{base.name}.{queue}"
    return Topic(name, base.partitions, base.compacted, base.retention_hours)
