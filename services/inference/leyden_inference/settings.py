"""Settings of the inference service."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from leyden_platform.settings import ServiceSettings


class ModelFolder(BaseModel):
    """A folder served under a fixed name, without the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="What requests call it, for example calculator@0.")
    path: Path = Field(description="Hugging Face folder.")


class InferenceSettings(ServiceSettings):
    """``LEYDEN_INFERENCE_…``"""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_INFERENCE_", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    host: str = Field(default="0.0.0.0", description="Address that the HTTP API listens on.")
    port: int = Field(default=8001, ge=0, le=65535, description="Port of the HTTP API; 0 takes a free one.")
    models: list[ModelFolder] = Field(
        default_factory=list, description='Folders to serve without Kafka: [{"name": …, "path": …}].'
    )
    follow: bool = Field(default=True, description="Follow leyden.models.v1; off needs no Kafka at all.")
    policies: list[str] = Field(
        default_factory=list, description="Follow only these policies; empty follows all."
    )
    torch_threads: int = Field(default=1, ge=1, description="CPU threads of one matrix product.")
    max_batch: int = Field(default=64, ge=1, le=4096, description="Sequences decoded together, per version.")
    max_queue: int = Field(
        default=512, ge=1, description="Sequences that may wait; beyond it requests get 503."
    )
    context: int | None = Field(
        default=None,
        ge=2,
        description="Longest prompt plus completion in tokens; the model's own when unset.",
    )
    prefill_tokens: int = Field(
        default=2048,
        ge=16,
        description="Prompt tokens computed between two decode steps, so decoding goes on.",
    )
    prefix_cache_tokens: int = Field(
        default=16_384,
        ge=0,
        description="Tokens of shared prompt beginnings kept per version; 0 turns it off.",
    )
    linger_s: float = Field(
        default=10.0,
        ge=0,
        description="A replaced version is unloaded when it has had no request for this long.",
    )
    load_retry_s: float = Field(
        default=30.0, gt=0, description="Pause before a version that failed to load is tried again."
    )
    reconnect_s: float = Field(default=2.0, gt=0, description="Pause before Kafka is tried again.")
    max_body_bytes: int = Field(default=8 * 1024 * 1024, gt=0, description="Largest request body accepted.")
