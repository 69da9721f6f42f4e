"""What the registry announces on the compacted models topic."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from leyden_schemas.base import JsonObject, Message, Name, Timestamp, Topic
from leyden_schemas.ids import policy_at, policy_ref
from leyden_schemas.topics import Topics


class WeightsKind(StrEnum):
    """Full weights, or an adapter over a base version."""

    FULL = "full"
    LORA = "lora"


class _ModelEvent(Message):
    topic: ClassVar[Topic] = Topics.MODELS

    event_id: UUID
    policy: Name
    version: int = Field(ge=0)
    occurred_at: Timestamp


class ModelPublished(_ModelEvent):
    """A policy version exists, its artifact is complete and its digest known."""

    type: Literal["model_published"] = "model_published"
    artifact: str = Field(description="URI of the Hugging Face folder, for example file:///var/lib/leyden/…")
    digest: str = Field(description="sha256 over the artifact's files, see leyden_platform.artifacts.")
    kind: WeightsKind = WeightsKind.FULL
    tokenizer_digest: str = ""
    chat_template_digest: str = ""
    parent: int | None = None
    step: int | None = Field(default=None, description="Learner step that made it; None for an import.")
    prompt_version: str | None = None
    sampling_defaults: JsonObject = Field(default_factory=dict)
    metrics: JsonObject = Field(default_factory=dict)

    def key(self) -> str:
        """``policy@version``."""
        return policy_at(self.policy, self.version)


class AliasMoved(_ModelEvent):
    """An alias of a policy now names ``version``."""

    type: Literal["alias_moved"] = "alias_moved"
    alias: Name
    previous: int | None = None
    reason: str = ""
    weight: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the bare policy's traffic that this alias takes from serving, as a canary.",
    )

    def key(self) -> str:
        """``policy#alias``."""
        return policy_ref(self.policy, self.alias)


ModelMessage = Annotated[ModelPublished | AliasMoved, Field(discriminator="type")]
