"""Settings of the judge (``LEYDEN_REWARD_JUDGE_…``)."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class JudgeSettings(BaseSettings):
    """Which model judges, and what it may cost."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_REWARD_JUDGE_", frozen=True, extra="ignore")

    url: str | None = Field(
        default=None,
        description="An OpenAI-compatible base URL, the gateway's as a rule: http://gateway:8000/v1. "
        "Without one, tasks that need a judge are excluded.",
    )
    model: str = Field(
        default="judge", min_length=1, description="The model that judges, unless a task says."
    )
    api_key: SecretStr | None = Field(default=None, description="Sent as a bearer token.")
    concurrency: int = Field(default=8, ge=1, le=1024, description="Calls at once.")
    deadline_s: float = Field(
        default=120.0, gt=0, le=1e9, description="Longest wait for a verdict: queue, calls and retries."
    )
    attempts: int = Field(
        default=4, ge=1, le=10, description="Calls for one verdict: after 429, 5xx, no answer, no verdict."
    )
    max_tokens: int = Field(
        default=1024, ge=16, description="Longest answer of the judge; a group's is longer."
    )
    max_characters: int = Field(
        default=60_000,
        ge=1000,
        description="Longest prompt; the middle of what is judged is left out beyond.",
    )
    calls_per_hour: int = Field(
        default=10_000, ge=0, description="Beyond, rollouts are excluded: judge_budget."
    )
    tokens_per_hour: int = Field(
        default=20_000_000, ge=0, description="Prompt and answer, as the server counts."
    )
    calls_per_rollout: int = Field(
        default=8, ge=1, description="Calls for one rollout, or for one group that is ranked."
    )
    cache_file: str = Field(
        default=":memory:", min_length=1, description="SQLite file that keeps verdicts over restarts."
    )
    cache_entries: int = Field(
        default=100_000, ge=1, description="Verdicts kept; those used longest ago are forgotten."
    )
