"""Settings that several services share. Each is read from the environment once, in ``__main__``.

A service's own settings subclass ``ServiceSettings`` with ``env_prefix="LEYDEN_<SERVICE>_"`` and hold the
shared groups as fields, so that ``LEYDEN_KAFKA_BOOTSTRAP`` means the same everywhere.
"""

import logging
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class KafkaSettings(BaseSettings):
    """How to reach the log (``LEYDEN_KAFKA_…``)."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_KAFKA_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    bootstrap: str = Field(default="localhost:9092", description="host:port[,host:port…]")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ca_file: str | None = Field(
        default=None, description="PEM file of the authority that signed the brokers."
    )
    idempotent: bool = Field(default=True, description="Idempotent producer; off where the broker lacks it.")
    compression: Literal["lz4", "zstd", "gzip", "snappy", ""] | None = Field(
        default="lz4", description="Empty for none."
    )
    max_message_bytes: int = Field(default=8 * 1024 * 1024, gt=0, description="Largest message produced.")
    request_timeout_s: float = Field(default=30.0, gt=0)
    session_timeout_s: float = Field(
        default=15.0, gt=0, description="After this long without a heartbeat a consumer's partitions move on."
    )
    replication_factor: int = Field(default=1, ge=1, description="For topics that Leyden creates.")

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError(
                f"{self.security_protocol} needs LEYDEN_KAFKA_SASL_USERNAME and LEYDEN_KAFKA_SASL_PASSWORD"
            )
        return self


class DatabaseSettings(BaseSettings):
    """How to reach Postgres (``LEYDEN_DATABASE_…``)."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_DATABASE_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    url: SecretStr = Field(
        default=SecretStr("postgresql+asyncpg://leyden:leyden@localhost:5432/leyden"),
        description="postgresql+asyncpg://user:password@host:port/database",
    )
    pool_size: int = Field(default=5, ge=1)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    statement_timeout_s: float = Field(default=30.0, gt=0)

    @field_validator("url")
    @classmethod
    def _names_the_driver(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith("postgresql+asyncpg://"):
            raise ValueError("write postgresql+asyncpg://user:password@host:port/database")
        return url


class OpsSettings(BaseSettings):
    """The operations port: /metrics, /healthz, /readyz (``LEYDEN_OPS_…``)."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_OPS_", frozen=True, extra="ignore")

    host: str = "0.0.0.0"
    port: int = Field(default=9100, ge=0, le=65535)


class LogSettings(BaseSettings):
    """Structured logs (``LEYDEN_LOG_…``)."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_LOG_", frozen=True, extra="ignore")

    level: str = "INFO"
    json_lines: bool = Field(default=True, description="False for coloured lines on a terminal.")

    @field_validator("level")
    @classmethod
    def _is_a_level(cls, level: str) -> str:
        if level.upper() not in logging.getLevelNamesMapping():
            raise ValueError("use DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return level


class CatalogueSettings(BaseSettings):
    """The user's code by name (``LEYDEN_CATALOGUE_…``), the same for runner and reward."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_CATALOGUE_", frozen=True, extra="ignore")

    path: list[str] = Field(
        default_factory=list, description="Folders put on sys.path before importing user code."
    )
    rewards: dict[str, str] = Field(
        default_factory=dict,
        description='Reward name to "module:function", as JSON, beside the built-in ones.',
    )
    rules: dict[str, str] = Field(
        default_factory=dict,
        description='Name of an intermediate rule to "module:function", as JSON, beside the built-in ones.',
    )


class ServiceSettings(BaseSettings):
    """Base of every service's settings."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_nested_delimiter="__")

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    ops: OpsSettings = Field(default_factory=OpsSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    drain_timeout_s: float = Field(default=20.0, gt=0, description="How long SIGTERM waits for work in hand.")
