"""Settings of the reward service (``LEYDEN_REWARD_…``)."""

import math
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from leyden_platform.settings import CatalogueSettings, ServiceSettings
from leyden_reward.air.weights import problem_of
from leyden_reward.rewards.judging.settings import JudgeSettings
from leyden_reward.rewards.sandbox.settings import SandboxSettings
from leyden_reward.session_settings import SessionSettings
from leyden_schemas.rewards import LIBRARY, UnknownReward, leaves


class RewardSettings(ServiceSettings):
    """What the reward service can be told."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_REWARD_", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    catalogue: CatalogueSettings = Field(default_factory=CatalogueSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    sessions: SessionSettings = Field(default_factory=SessionSettings)
    group: str = Field(default="leyden-reward", min_length=1, description="Consumer group.")
    grace_s: float = Field(
        default=60.0,
        gt=0,
        le=1e9,
        description="A rollout is given up after timeout_s * max_attempts of its task plus this.",
    )
    remember: int = Field(
        default=10_000, ge=1, description="Closed rollouts remembered per partition, to count late events."
    )
    workers: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Processes that run reward functions; up to four times as many while calls are slow.",
    )
    deadline_s: float = Field(default=30.0, gt=0, le=1e9, description="Longest run of one reward function.")
    startup_s: float = Field(
        default=60.0,
        gt=0,
        le=1e9,
        description="Longest start of the workers, importing the user's functions included.",
    )
    memory_mb: int | None = Field(
        default=2048, ge=256, description="Memory that one process may ask for; more is a MemoryError in it."
    )
    databases: dict[str, str] = Field(
        default_factory=dict, description="SQLite files by the name that tasks use for them. JSON."
    )
    max_pending: int = Field(
        default=1_000, ge=1, description="Closed rollouts being scored per partition before reading pauses."
    )
    ranking_deadline_s: float = Field(
        default=300.0,
        gt=0,
        le=1e9,
        description="A group is ranked this long after its first rollout, complete or not.",
    )
    max_reward: float = Field(
        default=1e6, gt=0, description="A final reward of larger magnitude excludes the rollout."
    )
    failed_reward: float = Field(
        default=0.0,
        allow_inf_nan=False,
        description="Final reward of a rollout whose agent failed or timed out; no function is called.",
    )
    waiting_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="A rollout that ran out of time is excluded as overloaded when its calls waited for us "
        "for more than this share of it.",
    )
    air_cap: float = Field(
        default=0.25,
        ge=0,
        allow_inf_nan=False,
        description="What blame may add up to in a trajectory's intermediate terms, and what praise may. "
        "Keep it under half of what separates a good final reward from a bad one; 0 turns them off.",
    )
    air_goal: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="Final reward of a full success, at which praise on the way has faded to nothing.",
    )
    air_latency_budget_s: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Seconds of a server that one answer may take."
    )
    air_token_limit: int = Field(
        default=8192, ge=1, description="Limit of an answer's tokens where the request has none."
    )
    air_weights: dict[str, float] = Field(
        default_factory=dict, description="Weight by rule name, over the defaults; 0 turns a rule off. JSON."
    )
    signal_weights: dict[str, float] = Field(
        default_factory=dict,
        description="Weight by signal name; signals not named are kept with weight 0. JSON.",
    )

    @field_validator("signal_weights")
    @classmethod
    def _are_finite(cls, weights: dict[str, float]) -> dict[str, float]:
        if infinite := sorted(name for name, weight in weights.items() if not math.isfinite(weight)):
            raise ValueError(f"{', '.join(infinite)}: give a finite number")
        return weights

    @model_validator(mode="after")
    def _session_reward_can_be_given(self) -> Self:
        own = self.catalogue.rewards
        try:
            for _leaf in leaves(self.sessions.session_reward, own):
                pass
        except UnknownReward as error:
            known = ", ".join(sorted({*LIBRARY, *own}))
            raise ValueError(
                f"session_reward: {error}; add it to LEYDEN_CATALOGUE_REWARDS or use one of {known}"
            ) from None
        except ValueError as error:
            raise ValueError(f"session_reward: {error}") from None
        return self

    @model_validator(mode="after")
    def _rules_fit(self) -> Self:
        if problem := problem_of(self.air_weights, self.catalogue.rules):
            raise ValueError(problem)
        return self
