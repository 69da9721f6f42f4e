"""Everything that can be set about the gateway (``LEYDEN_GATEWAY_…``), with its default and its reason."""

from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_core import from_json
from pydantic_settings import NoDecode, SettingsConfigDict

from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.control.settings import ControlSettings
from leyden_gateway.feedback.settings import FeedbackSettings
from leyden_gateway.recording.redaction import RedactionSettings
from leyden_gateway.recording.settings import RecordingSettings
from leyden_gateway.routing.settings import RoutingSettings
from leyden_platform.settings import ServiceSettings
from leyden_platform.tokens import TokenSettings


class GatewaySettings(ServiceSettings):
    """The gateway's own settings and the groups it shares with other services."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    token: TokenSettings = Field(default_factory=TokenSettings)
    attribution: AttributionSettings = Field(default_factory=AttributionSettings)
    control: ControlSettings = Field(default_factory=ControlSettings)
    feedback: FeedbackSettings = Field(default_factory=FeedbackSettings)
    routing: RoutingSettings = Field(default_factory=RoutingSettings)
    recording: RecordingSettings = Field(default_factory=RecordingSettings)
    redaction: RedactionSettings = Field(default_factory=RedactionSettings)
    host: str = "0.0.0.0"
    port: int = Field(default=8000, ge=0, le=65535)
    processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that share the port, one per core; metrics and admin of each have ports "
        "of their own, from LEYDEN_OPS_PORT and ADMIN_PORT.",
    )
    replicas: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("http://localhost:8001",),
        description="Base URLs of the inference replicas, comma separated or as a JSON list.",
    )
    replica_api_key: SecretStr | None = Field(
        default=None, description="Sent to replicas as a bearer token, for servers started with a key."
    )
    allow_anonymous: bool = Field(
        default=False, description="Accept calls without a rollout token and record each as its own session."
    )
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, gt=0, description="Larger requests are refused with 413."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="How long a caller may take to send a body."
    )
    max_answer_bytes: int = Field(
        default=64 * 1024 * 1024, gt=0, description="Largest answer, or SSE event, read from a replica."
    )
    max_in_flight: int = Field(
        default=8192, ge=1, description="Calls held at once; more are refused with 503."
    )
    budget_entries: int = Field(
        default=100_000,
        ge=1,
        description="Attempts whose completions are counted; the least recent is forgotten.",
    )
    park_timeout_s: float = Field(
        default=30.0, ge=0, description="How long a call waits for its policy version to be served somewhere."
    )
    request_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest life of one call, waits included."
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Opening a connection to a replica.")
    stall_timeout_s: float = Field(
        default=300.0, gt=0, description="Longest silence of a replica, the time to its first byte included."
    )
    caller_stall_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a streaming caller may stop reading before it counts as gone.",
    )
    record_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long Kafka may take to acknowledge a record; then the call fails.",
    )
    upstream_attempts: int = Field(
        default=6, ge=1, description="Tries of one call while nothing was sampled, over all replicas."
    )
    pool_size: int = Field(default=8192, ge=1, description="Connections to one server, open at once.")
    upstream_ca_file: str | None = Field(
        default=None, description="PEM file of the authority that signed the replicas' certificates."
    )
    poll_interval_s: float = Field(default=2.0, gt=0, description="Between looks at what replicas serve.")
    poll_urgent_s: float = Field(
        default=0.1, gt=0, description="The same while calls are parked or just after a models event."
    )
    poll_timeout_s: float = Field(
        default=2.0, gt=0, description="A replica that takes longer counts as down."
    )

    @field_validator("replicas", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = from_json(value) if value.lstrip().startswith("[") else value.split(",")
        return tuple(str(url).strip().rstrip("/") for url in value)

    @field_validator("replicas")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not a base URL, for example http://inference:8001")
        if len(set(value)) != len(value):
            raise ValueError("a replica is named twice")
        return value
