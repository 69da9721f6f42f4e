"""Who may call besides rollouts, and what model names mean (``LEYDEN_GATEWAY_…``)."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.model_names import parse_meaning
from leyden_schemas.base import Name


class AttributionSettings(BaseSettings):
    """Production traffic's keys, and aliases of models."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    api_keys: dict[Name, KeyGrant] = Field(
        default_factory=dict,
        description="Static keys of production traffic by name, as JSON: where the key is found "
        '("key_env" or "sha256"), "tenant", "run", "policy", "session", "rollouts".',
    )
    model_aliases: dict[str, str] = Field(
        default_factory=dict,
        description="Model names as agents send them to policy[@version|#alias][/agent], as JSON.",
    )

    @field_validator("model_aliases")
    @classmethod
    def _mean_something(cls, value: dict[str, str]) -> dict[str, str]:
        for target in value.values():
            parse_meaning(target)
        return value
