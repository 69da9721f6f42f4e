"""Settings of the inference service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from leyden_platform.objects import ObjectSettings
from leyden_platform.settings import ServiceSettings


class ModelFolder(BaseModel):
    """A folder served under a fixed name, without the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="What requests call it, for example calculator@0.")
    path: Path = Field(description="Hugging Face folder.")


class VllmSettings(BaseModel):
    """``LEYDEN_INFERENCE_VLLM__…``: how servers of vLLM are started, found and given new weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: list[str] = Field(
        default=["vllm", "serve"],
        min_length=1,
        description="Program that starts a server, as a JSON list; folder and options are appended.",
    )
    args: list[str] = Field(
        default=["--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
        description="More options of a started server, as a JSON list.",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="More environment of a started server, as a JSON object."
    )
    engines: int = Field(default=1, ge=1, le=64, description="Servers to start.")
    urls: list[str] = Field(
        default_factory=list, description="Servers that run already, instead of starting any; base URLs."
    )
    aliases: list[str] = Field(
        default=["serving", "latest"],
        min_length=1,
        description="Aliases whose versions are served first when there are fewer servers than versions.",
    )
    max_loras: int = Field(
        default=0, ge=0, description="Adapters a server holds at once; 0 serves full weights only."
    )
    max_lora_rank: int = Field(default=32, ge=1, description="Largest rank of an adapter.")
    start_timeout_s: float = Field(default=600.0, gt=0, description="Longest start of a server.")
    max_starts: int = Field(
        default=5, ge=1, description="Starts in a row that may fail before the service gives up."
    )
    swap_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest change of weights; then the server is started anew."
    )
    swap_drain_s: float = Field(
        default=10.0,
        ge=0,
        description="How long a change of weights waits for running completions; then they are kept over it.",
    )
    park_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest wait of a request for a version that is being loaded."
    )
    stall_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest silence of a server in the middle of an answer."
    )
    probe: Literal["required", "when_possible", "off"] = Field(
        default="when_possible",
        description="Whether a version is served that nobody can say the right answers of.",
    )
    probe_tolerance: float = Field(
        default=0.1, gt=0, description="Root mean square, in nats, that answers to the probe may be off."
    )
    peers: list[str] = Field(
        default_factory=list,
        description="Base URLs of all replicas of the service, itself included, in one order everywhere.",
    )
    peer: int | None = Field(
        default=None, ge=0, description="Which of the peers this is; by default its host name says so."
    )
    peer_wait_s: float = Field(
        default=300.0, gt=0, description="Longest wait for other replicas' turns before going on regardless."
    )


class InferenceSettings(ServiceSettings):
    """``LEYDEN_INFERENCE_…``"""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_INFERENCE_", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    engine: Literal["torch", "vllm"] = Field(
        default="torch", description="The built-in engine, or servers of vLLM that this service drives."
    )
    vllm: VllmSettings = Field(default_factory=VllmSettings)
    objects: ObjectSettings = Field(default_factory=ObjectSettings)
    cache_dir: Path = Field(
        default=Path("cache"), description="Where versions from an object store are kept; one process's own."
    )
    cache_max_bytes: int = Field(
        default=0, ge=0, description="Size of that folder; what was loaded longest ago goes. 0 is unbounded."
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
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Of matrix products; everything else is fp32. bf16 pays where the processor has it.",
    )
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

    @model_validator(mode="after")
    def _one_policy_of_vllm(self) -> Self:
        if self.engine == "vllm":
            if self.follow and len(self.policies) != 1:
                raise ValueError("a server of vLLM has one model: name one policy in POLICIES")
            if not self.follow and len(self.models) != 1:
                raise ValueError("without FOLLOW vLLM serves one folder: name it in MODELS")
        return self
