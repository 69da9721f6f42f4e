"""What the learner trains on: token rows with the spans the policy sampled."""

from typing import ClassVar, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leyden_schemas.base import BASE_QUEUE, Message, Timestamp, Topic
from leyden_schemas.topics import Topics


class TokenSpan(BaseModel):
    """Tokens ``[start, start + len(logprobs))`` of a row, sampled in one completion by one version."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    start: int = Field(ge=1, description="Position of the first sampled token; a row never begins with one.")
    logprobs: list[float] = Field(min_length=1, description="The sampler's log-probabilities, natural log.")
    advantage: float
    version: int = Field(ge=0)
    completion_id: UUID
    truncated: bool = Field(default=False, description="Cut off at its length limit; for metrics.")

    @property
    def stop(self) -> int:
        """One past the last sampled token."""
        return self.start + len(self.logprobs)


class TokenRow(BaseModel):
    """One token sequence; only tokens inside a span carry loss."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[int] = Field(min_length=2)
    spans: list[TokenSpan] = Field(min_length=1)

    @model_validator(mode="after")
    def _spans_fit(self) -> Self:
        end = 0
        for span in self.spans:
            if span.start < end:
                raise ValueError(f"span at {span.start} overlaps the one before it, which ends at {end}")
            end = span.stop
        if end > len(self.token_ids):
            raise ValueError(f"a span ends at {end}, past the row's {len(self.token_ids)} tokens")
        return self


class TrainingSample(Message):
    """All token rows of one rollout, with its per-step advantages."""

    topic: ClassVar[Topic] = Topics.SAMPLES

    sample_id: UUID
    rollout_id: UUID
    group_id: UUID
    policy: str
    rows: list[TokenRow] = Field(min_length=1)
    reward: float = Field(description="The final reward, for metrics; the loss uses advantages only.")
    estimator: str
    group_size: int = Field(ge=1, description="Rollouts the advantages were computed over.")
    group_samples: int | None = Field(
        default=None, ge=1, description="Samples that the group gave, this one included; None: not told."
    )
    queue: str = Field(default=BASE_QUEUE, description="The queue of task topics that the task came through.")
    created_at: Timestamp

    def key(self) -> str:
        """The rollout id."""
        return str(self.rollout_id)

    @property
    def sampled_tokens(self) -> int:
        """Tokens that carry loss."""
        return sum(len(span.logprobs) for row in self.rows for span in row.spans)

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that sampled any of its tokens."""
        return min(span.version for row in self.rows for span in row.spans)
