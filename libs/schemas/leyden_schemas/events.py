"""What happened in a rollout, as frozen past-tense facts in acknowledgement order."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from leyden_schemas.base import JsonObject, Message, Timestamp, Topic
from leyden_schemas.ids import policy_at
from leyden_schemas.tasks import Task
from leyden_schemas.topics import Topics


class Outcome(StrEnum):
    """How an attempt ended. Only the agent's own failures are rewarded as such."""

    SUCCEEDED = "succeeded"
    AGENT_FAILED = "agent_failed"
    TIMED_OUT = "timed_out"
    INFRASTRUCTURE_FAILED = "infrastructure_failed"


class Protocol(StrEnum):
    """The HTTP protocol the agent spoke."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"


class CompletionStatus(StrEnum):
    """Whether the caller got its completion."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"


class _Event(Message):
    topic: ClassVar[Topic] = Topics.EVENTS

    event_id: UUID
    rollout_id: UUID
    attempt: int = Field(default=1, ge=1)
    occurred_at: Timestamp

    def key(self) -> str:
        """The rollout id: one rollout's events share a partition."""
        return str(self.rollout_id)


class RolloutStarted(_Event):
    """A runner leased an attempt and is about to run the agent."""

    type: Literal["rollout_started"] = "rollout_started"
    group_id: UUID
    index: int = Field(ge=0)
    task: Task
    runner: str = ""


class SamplingUsed(Message):
    """The sampling parameters that were in force, and what the gateway changed to make them so."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    overridden: JsonObject = Field(default_factory=dict, description="What the caller had asked for instead.")


class Usage(Message):
    """Token counts of one completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Timings(Message):
    """Seconds from the arrival of the request."""

    first_token_s: float | None = None
    total_s: float = 0.0


class CompletionRecorded(_Event):
    """One model call, acknowledged by Kafka before the caller saw its end.

    ``token_ids`` and ``logprobs`` are the sampler's own and of equal length; when either is missing
    ``untrainable`` says why.
    """

    type: Literal["completion_recorded"] = "completion_recorded"
    completion_id: UUID
    agent: str = Field(default="main", description="The role within a multi-agent rollout.")
    protocol: Protocol = Protocol.CHAT
    streamed: bool = False
    status: CompletionStatus = CompletionStatus.OK
    http_status: int = 200
    error: str | None = None
    untrainable: str | None = Field(default=None, description="Why this completion cannot be trained on.")
    policy: str
    version: int | None = None
    replica: str = ""
    request: JsonObject
    response: JsonObject | None = None
    prompt_token_ids: list[int] = Field(default_factory=list)
    token_ids: list[int] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    finish_reason: str | None = None
    sampling: SamplingUsed = Field(default_factory=SamplingUsed)
    usage: Usage = Field(default_factory=Usage)
    timings: Timings = Field(default_factory=Timings)

    @property
    def model(self) -> str:
        """``policy@version`` as sampled, or the policy alone when no version is known."""
        return self.policy if self.version is None else policy_at(self.policy, self.version)


class SignalRecorded(_Event):
    """A measurement or feedback about a rollout or one of its completions."""

    type: Literal["signal_recorded"] = "signal_recorded"
    name: str
    value: float | None = None
    text: str | None = None
    completion_id: UUID | None = None


class RolloutFinished(_Event):
    """The agent of one attempt returned, failed or ran out of time."""

    type: Literal["rollout_finished"] = "rollout_finished"
    outcome: Outcome
    output: Any = None
    error: str | None = None
    log_tail: str = Field(default="", description="The end of what the agent printed.")
    duration_s: float = 0.0
    final: bool = Field(default=True, description="False when another attempt will follow.")


EventMessage = Annotated[
    RolloutStarted | CompletionRecorded | SignalRecorded | RolloutFinished, Field(discriminator="type")
]
