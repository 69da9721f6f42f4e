"""What tenants may use, how long a conversation may be, and the operator's port (``LEYDEN_GATEWAY_…``)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_schemas.base import Name

EVERY_OTHER = "*"


class TenantLimits(BaseModel):
    """What one tenant may use of one gateway process; what is left out is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    requests_per_s: float | None = Field(default=None, gt=0)
    burst: int | None = Field(
        default=None, ge=1, description="Calls that may come at once; by default those of one second."
    )
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Prompt and sampled tokens.")
    max_in_flight: int | None = Field(default=None, ge=1)


class ControlSettings(BaseSettings):
    """Limits and the admin port."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    tenant_limits: dict[Name | Literal["*"], TenantLimits] = Field(
        default_factory=dict,
        description='Tenant to limits as JSON; "*" for each tenant that has none of its own. Per process.',
    )
    max_messages: int = Field(
        default=4096, ge=1, description="Longer conversations are refused with 400 too_many_messages."
    )
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=8010, ge=0, le=65535)
    admin_token: SecretStr | None = Field(
        default=None, min_length=16, description="Bearer token of the admin routes; none: no routes."
    )
