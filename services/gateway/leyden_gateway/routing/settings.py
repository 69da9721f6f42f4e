"""Everything that can be set about routing (``LEYDEN_GATEWAY_…``), with its default and its reason."""

import os
import re
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_gateway.routing.breaker import Rules

Speaks = Literal["chat", "completions", "embeddings"]
"""What is asked of a server; callers of Responses and Messages are served by a chat completion."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_OURS = frozenset({"connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"})


class ExternalSettings(BaseModel):
    """One model on a server that is not Leyden's, called by agents and judges and never trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(description="As client libraries take it, for example https://api.openai.com/v1.")
    model: str = Field(default="", description="The server's own name for it; by default the same name.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the key; none is sent without."
    )
    key_header: str | None = Field(
        default=None,
        description="Header that takes the bare key, for example api-key. By default Authorization: Bearer.",
    )
    protocols: tuple[Speaks, ...] = Field(
        default=("chat", "completions", "embeddings"), min_length=1, description="What the server speaks."
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with every call; no keys here.")
    tenants: tuple[str, ...] = Field(default=(), description="Who may use it; empty: everybody.")
    max_concurrency: int = Field(default=64, ge=1, description="Calls at once; more of them wait.")
    begin_timeout_s: float | None = Field(
        default=None, gt=0, description="Longest wait for its answer to begin; STALL_TIMEOUT_S otherwise."
    )
    _key: SecretStr | None = PrivateAttr(default=None)

    @property
    def key(self) -> SecretStr | None:
        """What ``api_key_env`` held when the settings were read."""
        return self._key

    @field_validator("base_url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{value!r} is not a base URL, for example https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("a base URL holds no credentials, query or fragment; keys go to api_key_env")
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _HEADER.fullmatch(name) or not text.isprintable() or not text.isascii():
                raise ValueError(f"{name!r} is not a header with a value of one printable line")
            if name.lower() in _OURS:
                raise ValueError(f"{name!r} is set by the gateway itself")
        return {name.lower(): text for name, text in value.items()}

    @model_validator(mode="after")
    def _find_key(self) -> Self:
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "").strip()
            if not key:
                raise ValueError(
                    f"the environment variable {self.api_key_env} is not set; it must hold the key for "
                    f"{self.base_url}"
                )
            self._key = SecretStr(key)
        return self


class RoutingSettings(BaseSettings):
    """How calls find a server, and when a server is left alone."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    replica_concurrency: int = Field(
        default=4096,
        ge=1,
        description="Calls one replica holds at once; further ones overflow or wait. vLLM queues by itself; "
        "its max_num_seqs here spreads bursts over replicas sooner.",
    )
    breaker_failures: int = Field(
        default=5, ge=1, description="Failures in a row after which a replica is left alone."
    )
    breaker_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of failures in a window after which it is, too."
    )
    breaker_window_s: float = Field(default=10.0, gt=0, description="Length of that window.")
    breaker_min_calls: int = Field(
        default=20, ge=1, description="Calls in the window below which the share says nothing."
    )
    breaker_open_s: float = Field(
        default=1.0, gt=0, description="How long it is left alone; doubled each time its probe fails."
    )
    breaker_open_max_s: float = Field(default=10.0, gt=0, description="Longest time it is left alone.")
    retry_after_max_s: float = Field(
        default=5.0, ge=0, description="Longest Retry-After of a replica that is honoured."
    )
    hedge_after_s: float | None = Field(
        default=None, gt=0, description="Without an answer by then a second replica is asked. None: never."
    )
    externals: dict[str, ExternalSettings] = Field(
        default_factory=dict, description="Name to server, as JSON: models that are not Leyden's."
    )

    @field_validator("externals")
    @classmethod
    def _are_named(cls, value: dict[str, ExternalSettings]) -> dict[str, ExternalSettings]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for a model: letters, digits and . _ : / - only")
        return value

    def breaker_rules(self) -> Rules:
        """When a server is left alone."""
        return Rules(
            failures=self.breaker_failures,
            ratio=self.breaker_ratio,
            window_s=self.breaker_window_s,
            min_calls=self.breaker_min_calls,
            open_s=self.breaker_open_s,
            open_max_s=self.breaker_open_max_s,
        )
