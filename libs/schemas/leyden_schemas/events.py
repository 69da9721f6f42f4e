"""What happened in a rollout, as frozen past-tense facts in acknowledgement order."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from leyden_schemas.base import BASE_QUEUE, JsonObject, Message, Timestamp, Topic
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


class Mode(StrEnum):
    """What a call was made for, which decides who owns its sampling parameters."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    PRODUCTION = "production"


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
    queue: str = Field(default=BASE_QUEUE, description="The queue of task topics that the task came through.")
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

    queue_s: float | None = Field(default=None, description="Until it was sent to a replica.")
    first_token_s: float | None = None
    total_s: float = 0.0


class PromptBase(BaseModel):
    """What a prompt shares with an earlier completion of the same attempt, and so is not stored again.

    The base lies before this record on the same partition, and may have a base of its own. Whoever reads in
    order resolves it with ``leyden_schemas.deltas.expand``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    completion_id: UUID = Field(description="The base: an earlier completion of this rollout and attempt.")
    tokens: int = Field(
        default=0,
        ge=0,
        description="This prompt begins with so many ids of the base's whole prompt followed by its sampled "
        "ids; prompt_token_ids has the rest.",
    )
    items: int = Field(
        default=0,
        ge=0,
        description="This conversation (messages, input or prompt, by protocol) begins with so many items of "
        "the base's whole one, characters if it is a text; request has the rest.",
    )
    fields: tuple[str, ...] = Field(
        default=(),
        description="Fields of the base's whole request that are equal here and left out of request.",
    )


class CompletionRecorded(_Event):
    """One model call, acknowledged by Kafka before the caller saw its end.

    ``token_ids`` and ``logprobs`` are the sampler's own and of equal length; when either is missing
    ``untrainable`` says why. With a ``base``, ``prompt_token_ids`` and ``request`` hold only what the base
    does not.
    """

    type: Literal["completion_recorded"] = "completion_recorded"
    completion_id: UUID
    agent: str = Field(default="main", description="The role within a multi-agent rollout.")
    protocol: Protocol = Protocol.CHAT
    operation: str | None = Field(
        default=None, description="What was asked for when it was no completion: ``embeddings``."
    )
    mode: Mode | None = None
    session: str | None = Field(default=None, description="What identified a session of production traffic.")
    user: str | None = Field(default=None, description="The end user, as the request named them.")
    client: str = Field(default="", description="The caller's user agent.")
    retry_of: UUID | None = Field(default=None, description="The completion that this call repeats.")
    streamed: bool = False
    status: CompletionStatus = CompletionStatus.OK
    http_status: int = 200
    error: str | None = None
    untrainable: str | None = Field(default=None, description="Why this completion cannot be trained on.")
    policy: str
    version: int | None = None
    replica: str = ""
    base: PromptBase | None = Field(default=None, description="Where the beginning of the prompt is stored.")
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
    source: str = Field(default="", description="Who said it: the name of the API key, for feedback.")


class RolloutFinished(_Event):
    """The agent of one attempt returned, failed or ran out of time."""

    type: Literal["rollout_finished"] = "rollout_finished"
    outcome: Outcome
    output: Any = None
    error: str | None = None
    log_tail: str = Field(default="", description="The end of what the agent printed.")
    duration_s: float = 0.0
    final: bool = Field(default=True, description="False when another attempt will follow.")
    source: str = Field(
        default="", description="Who ended a session without a runner: the name of the API key."
    )


EventMessage = Annotated[
    RolloutStarted | CompletionRecorded | SignalRecorded | RolloutFinished, Field(discriminator="type")
]
