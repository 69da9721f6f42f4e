"""How completions are found that feedback names without their session (``LEYDEN_GATEWAY_…``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class FeedbackSettings(BaseSettings):
    """Memory first, then a bounded search of the log."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_GATEWAY_", frozen=True, extra="ignore")

    feedback_remember: int = Field(
        default=50_000, ge=0, description="Completions whose rollout one process remembers for feedback."
    )
    feedback_lookup_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long the log is searched for a completion that feedback names alone; then 404.",
    )
    feedback_max_items: int = Field(default=100, ge=1, description="Items of one batch of feedback.")
