"""A finished rollout as the reward service saw it: ordered steps with every reward term."""

from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from pydantic import ConfigDict, Field

from leyden_schemas.base import JsonObject, Message, Timestamp, Topic
from leyden_schemas.events import CompletionStatus, Outcome, Timings
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
    """One completion of a trajectory with the intermediate (AIR) terms it earned."""

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

    @property
    def reward(self) -> float:
        """The intermediate reward ``a_t`` of this step."""
        return sum(term.weighted for term in self.terms)


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
