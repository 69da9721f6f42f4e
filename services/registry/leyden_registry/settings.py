"""Everything about the registry that an operator may set."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from leyden_platform.objects import ObjectSettings
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
    objects: ObjectSettings = Field(default_factory=ObjectSettings)
    artifact_root: Path | None = Field(
        default=None,
        description="Folder that artifacts must lie in; empty allows any readable folder, "
        "unless artifact_url is set.",
    )
    artifact_url: str | None = Field(
        default=None,
        description="Place in an object store that artifacts must lie below; empty allows any, "
        "unless artifact_root is set.",
    )
    artifact_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest time to read and verify one artifact."
    )
    verify_concurrency: int = Field(default=2, ge=1, description="Artifacts verified at the same time.")
    retire_after_s: float = Field(
        default=600.0, ge=0, description="How long a version stays after it stopped being served."
    )
    max_body_bytes: int = Field(default=1024 * 1024, gt=0, description="Largest request body.")
