"""Settings of the sandbox (``LEYDEN_REWARD_SANDBOX_…``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SandboxSettings(BaseSettings):
    """How agents' code is run."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_REWARD_SANDBOX_", frozen=True, extra="ignore")

    count: int = Field(default=2, ge=1, le=256, description="Sandboxes at once.")
    require_isolation: bool = Field(
        default=False,
        description="Run nothing where the kernel grants no namespace of its own (no network, no other "
        "processes); rollouts are excluded then: sandbox_unavailable. Otherwise it is run all the same.",
    )
    python: str | None = Field(
        default=None, description="The interpreter that runs the code; the service's own unless given."
    )
