"""What callers may send. Unknown fields are refused, and so is what Postgres and JSON cannot hold."""

import math
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from leyden_schemas import JsonObject, WeightsKind
from leyden_schemas.base import Name

MAX_VERSION = 2**31 - 1


def _storable(value: Any, where: str = "") -> Any:
    """Refuse NaN, infinities and NUL characters, saying where they are."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{where.strip('.') or 'value'} is {value}, not a finite number")
        case str() if "\0" in value:
            raise ValueError(f"{where.strip('.') or 'value'} holds a NUL character")
        case dict():
            for key, item in value.items():
                _storable(key, where)
                _storable(item, f"{where}.{key}")
        case list():
            for index, item in enumerate(value):
                _storable(item, f"{where}.{index}")
    return value


Text = Annotated[str, Field(max_length=2000), AfterValidator(_storable)]
Json = Annotated[JsonObject, AfterValidator(_storable)]
VersionNumber = Annotated[int, Field(ge=0, le=MAX_VERSION)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishRequest(_Request):
    """A checkpoint to make a version of a policy. ``version_id`` makes repeating it harmless."""

    version_id: UUID
    artifact: Text = Field(min_length=1)
    kind: WeightsKind = WeightsKind.FULL
    parent: VersionNumber | None = None
    step: int | None = Field(default=None, ge=0, le=2**63 - 1)
    run: Name = "default"
    tenant: Name = "default"
    prompt_version: Text | None = None
    sampling_defaults: Json = Field(default_factory=dict)
    metrics: Json = Field(default_factory=dict)
    aliases: list[Name] = Field(default_factory=list, max_length=20, description="Moved here, forward only.")

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> Self:
        if self.kind is WeightsKind.LORA and self.parent is None:
            raise ValueError("an adapter (kind lora) needs the parent version it applies to")
        return self


class ChangeRequest(_Request):
    """Pinning, unpinning or retiring a version."""

    reason: Text = ""
    actor: Text = Field(default="anonymous", description="Who does it, for the audit.")


class MoveAliasRequest(_Request):
    """An explicit move of an alias, forwards or backwards."""

    version: VersionNumber
    reason: Text = ""
    actor: Text = Field(default="anonymous", description="Who moves it, for the audit.")
    weight: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the bare policy's traffic it takes as a canary; none when left out.",
    )
