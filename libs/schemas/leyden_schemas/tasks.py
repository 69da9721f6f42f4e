"""What the outside asks for (``Task``) and one attempt's worth of it (``RolloutAssigned``)."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from leyden_schemas.base import BASE_QUEUE, JsonObject, Message, Name, Topic
from leyden_schemas.ids import cause_id, parse_policy_ref
from leyden_schemas.topics import Topics

MAX_SAMPLES = 256


class Split(StrEnum):
    """Training rollouts become samples; evaluation rollouts are scored and never trained on."""

    TRAIN = "train"
    EVAL = "eval"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RewardSpec(_Strict):
    """Which registered reward scores the rollouts of a task, and its parameters."""

    name: Name = "exact_match"
    params: JsonObject = Field(default_factory=dict)


class Limits(_Strict):
    """Bounds on one attempt."""

    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    max_completions: int = Field(default=64, ge=1, le=10_000)
    max_tokens: int | None = Field(
        default=None, ge=1, description="Prompt and sampled tokens of all its completions; None: no limit."
    )
    max_attempts: int = Field(default=3, ge=1, le=10, description="Retries after infrastructure failures.")


class Sampling(_Strict):
    """How the policy is sampled. Training always uses top_p 1 and top_k off."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)


def _policy_ref(value: str) -> str:
    parse_policy_ref(value)
    return value


PolicyRef = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_policy_ref)]


class Task(Message):
    """Something for an agent to do, from any producer; unknown fields are refused, not ignored.

    ``task_id`` may be left out: the runner then derives one from where the message lies in its topic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    topic: ClassVar[Topic] = Topics.TASKS

    task_id: str | None = Field(default=None, min_length=1, max_length=200)
    input: JsonObject
    policy: PolicyRef = Field(description="policy, policy@version or policy#alias")
    reference: Any = Field(default=None, description="What a right answer is, for the reward function.")
    samples: int = Field(default=1, ge=1, le=MAX_SAMPLES, description="Rollouts of this task: its group.")
    agent: Name = Field(default="default", description="Which of the runner's agents makes the rollouts.")
    reward: RewardSpec = Field(default_factory=RewardSpec)
    split: Split = Split.TRAIN
    limits: Limits = Field(default_factory=Limits)
    sampling: Sampling = Field(default_factory=Sampling)

    def key(self) -> str:
        """The task id."""
        return self.task_id or ""


class RolloutAssigned(Message):
    """One rollout to make. ``samples`` of these share a group, which is one per task."""

    topic: ClassVar[Topic] = Topics.ROLLOUTS

    rollout_id: UUID
    group_id: UUID
    index: int = Field(ge=0)
    task: Task
    queue: str = Field(default=BASE_QUEUE, description="The queue of task topics that the task came through.")

    def key(self) -> str:
        """The rollout id."""
        return str(self.rollout_id)

    @classmethod
    def fan_out(cls, task: Task, queue: str = BASE_QUEUE) -> list["RolloutAssigned"]:
        """The rollouts of a task; ids derive from tenant, run and task id, so a repeat is recognised.

        Raises ``ValueError`` when the task has no id yet.
        """
        if task.task_id is None:
            raise ValueError("a task needs a task_id before it is fanned out")
        group_id = cause_id("group", task.tenant, task.run, task.task_id)
        return [
            cls(
                tenant=task.tenant,
                run=task.run,
                rollout_id=cause_id("rollout", group_id, index),
                group_id=group_id,
                index=index,
                task=task,
                queue=queue,
            )
            for index in range(task.samples)
        ]
