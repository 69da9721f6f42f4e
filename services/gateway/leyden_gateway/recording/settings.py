"""What recording may keep besides the log: records on disk, prompts in memory (``LEYDEN_GATEWAY_…``)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RecordingSettings(BaseSettings):
    """The spool and the memory that prompts are compared with."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    spool_dir: Path | None = Field(
        default=None,
        description="Folder on a disk that outlives the process, for production records while Kafka is away; "
        "without it such calls get 503. Processes may share it.",
    )
    spool_max_bytes: int = Field(
        default=1024**3, gt=0, description="Records one process keeps there at most; beyond it calls get 503."
    )
    delta_memory_bytes: int = Field(
        default=64 * 1024**2,
        ge=0,
        description="Prompts kept in memory, so that records hold only what they add; 0 stores all whole.",
    )
    delta_horizon_s: float = Field(
        default=3600.0, gt=0, description="A prompt this old is not leant on any more; records stay readable."
    )
    refusals_per_minute: int = Field(
        default=60,
        ge=0,
        description="Calls with a wrong key that are recorded, each by itself; more are only counted.",
    )
