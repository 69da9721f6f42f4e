"""A finished rollout as the reward service saw it: ordered steps with every reward term."""

from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from leyden_schemas.base import BASE_QUEUE, JsonObject, Message, Timestamp, Topic
from leyden_schemas.events import CompletionStatus, Outcome, PromptBase, Protocol, Timings
from leyden_schemas.tasks import Task
from leyden_schemas.topics import Topics


class TrajectoryStatus(StrEnum):
    """Scored trajectories count; excluded ones are kept for the record and never trained on."""

    SCORED = "scored"
    EXCLUDED = "excluded"


class RewardTerm(Message):
    """One named contribution to a reward; what counts is ``value * weight``."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    name: str
    value: float
    weight: float = 1.0
    feedback: str | None = Field(default=None, description="Text for people and prompt optimisers.")

    @property
    def weighted(self) -> float:
        """``value * weight``."""
        return self.value * self.weight


class Step(Message):
    """One completion of a trajectory with the intermediate (AIR) terms it earned.

    On the log it may lean on an earlier step, as completions do; ``decode`` gives steps that look whole.
    """

    completion_id: UUID
    agent: str = "main"
    policy: str
    version: int | None = None
    prompt_token_ids: list[int] = Field(default_factory=list)
    token_ids: list[int] = Field(default_factory=list)
    logprobs: list[float] = Field(default_factory=list)
    finish_reason: str | None = None
    untrainable: str | None = None
    status: CompletionStatus = Field(
        default=CompletionStatus.OK, description="Whether the caller got the completion."
    )
    timings: Timings | None = Field(default=None, description="How long the completion took.")
    request: JsonObject = Field(default_factory=dict)
    response: JsonObject | None = None
    terms: list[RewardTerm] = Field(default_factory=list)
    protocol: Protocol = Protocol.CHAT
    base: PromptBase | None = Field(
        default=None, description="The earlier step of this trajectory that has the beginning of the prompt."
    )

    @property
    def reward(self) -> float:
        """The intermediate reward ``a_t`` of this step."""
        return sum(term.weighted for term in self.terms)

    def plain(self) -> "Step":
        """This step with every field in memory."""
        return self

    def told(self) -> "Step":
        """This step as it lies on the log, where it may lean on an earlier one."""
        return self

    @model_serializer(mode="wrap")
    def _all_of_it(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = dump(self.plain())
        return fields


class Trajectory(Message):
    """Everything one rollout did, scored. ``final`` holds the outcome reward's terms."""

    topic: ClassVar[Topic] = Topics.TRAJECTORIES

    trajectory_id: UUID
    rollout_id: UUID
    group_id: UUID
    index: int = 0
    attempt: int = 1
    revision: int = Field(
        default=0,
        ge=0,
        description="0 when first published; a higher one, made of feedback that came later, supersedes it.",
    )
    task: Task
    queue: str = Field(default=BASE_QUEUE, description="The queue of task topics that the task came through.")
    outcome: Outcome
    output: Any = None
    error: str | None = None
    status: TrajectoryStatus = TrajectoryStatus.SCORED
    excluded_reason: str | None = None
    steps: list[Step] = Field(default_factory=list)
    final: list[RewardTerm] = Field(default_factory=list)
    finished_at: Timestamp
    scored_by: str = Field(default="", description="Name and version of the reward function.")

    def key(self) -> str:
        """The group id: a group is assembled by one consumer."""
        return str(self.group_id)

    @property
    def reward(self) -> float:
        """The final reward ``R``."""
        return sum(term.weighted for term in self.final)

    def to_json(self) -> bytes:
        """The trajectory as UTF-8 JSON, each step as it lies on the log."""
        head = self.model_dump_json(exclude={"steps"}).encode()
        return b'%b,"steps":[%b]}' % (head[:-1], b",".join([step.to_json() for step in self.steps]))
