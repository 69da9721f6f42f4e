"""Everything about the registry that an operator may set."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from leyden_platform.settings import DatabaseSettings, ServiceSettings


class RegistrySettings(ServiceSettings):
    """``LEYDEN_REGISTRY_…``, beside the shared groups."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_REGISTRY_",
        frozen=True,
        extra="ignore",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    host: str = "0.0.0.0"
    port: int = Field(default=8002, ge=0, le=65535, description="HTTP API; 0 takes a free port.")
    announce_on_start: bool = Field(
        default=True,
        description="Publish all versions and aliases again at start, for a Kafka that lost them.",
    )
    artifact_root: Path | None = Field(
        default=None, description="Folder that every artifact must lie in; empty allows any readable folder."
    )
    artifact_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest time to read and verify one artifact."
    )
    verify_concurrency: int = Field(default=2, ge=1, description="Artifacts verified at the same time.")
    max_body_bytes: int = Field(default=1024 * 1024, gt=0, description="Largest request body.")
