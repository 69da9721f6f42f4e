"""How patient to be with an object store (``LEYDEN_OBJECTS_…``).

Which one, and with which credentials, is left to each cloud's own variables (``AWS_…``, ``GOOGLE_…``,
``AZURE_…``) and to what a machine or pod is granted.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ObjectSettings(BaseSettings):
    """Deadlines, retries and sizes of transfers."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_OBJECTS_", frozen=True, extra="ignore")

    allow_http: bool = Field(default=False, description="Also talk to a store without TLS, in a cluster.")
    ca_file: Path | None = Field(
        default=None, description="PEM file of the authority that signed the store's certificate, if private."
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="Of one connection.")
    request_timeout_s: float = Field(
        default=30.0, gt=0, description="Of one request, which moves part_bytes at most."
    )
    max_retries: int = Field(default=5, ge=0, description="Of one request, with growing, jittered pauses.")
    retry_timeout_s: float = Field(
        default=60.0, gt=0, description="A request is not tried again after this long."
    )
    transfer_timeout_s: float = Field(
        default=1800.0, gt=0, description="Longest time to move one artifact, its listing or its deletion."
    )
    concurrency: int = Field(default=8, ge=1, description="Requests at a time of one transfer.")
    part_bytes: int = Field(default=16 * 1024 * 1024, ge=5 * 1024 * 1024, description="Of one request.")
