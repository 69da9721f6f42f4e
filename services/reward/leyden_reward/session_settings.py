"""Settings of sessions without a runner, and of people's feedback (``LEYDEN_REWARD_…``)."""

import math
from datetime import timedelta

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_reward.feedback import REWARD, SCALES
from leyden_reward.sessions import SessionRules
from leyden_schemas import RewardSpec
from leyden_schemas.rewards import Feedback


class SessionSettings(BaseSettings):
    """When production traffic is scored, and by what."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_REWARD_", frozen=True, extra="ignore")

    session_idle_s: float = Field(
        default=3600.0,
        gt=0,
        le=1e9,
        description="A session is over after this long without a completion, by the time of the log. Not "
        "less than LEYDEN_GATEWAY_DELTA_HORIZON_S, or later prompts may lean on earlier ones.",
    )
    session_longest_s: float = Field(
        default=14_400.0, gt=0, le=1e9, description="And after this long however busy it is."
    )
    session_close_on: list[str] = Field(
        default_factory=list,
        description='Signals about a whole session that end it, JSON: ["thumb", "score"].',
    )
    session_reward: RewardSpec = Field(
        default=RewardSpec(name=REWARD),
        description='Which reward scores sessions, JSON: {"name": "judge", "params": {"rubric": "…"}}.',
    )
    feedback_scales: dict[str, dict[float, float]] = Field(
        default_factory=lambda: {name: dict(scale) for name, scale in SCALES.items()},
        description="What signals are worth as rewards, JSON: by name, points of value and reward, between "
        "which it is linear.",
    )
    feedback_horizon_s: float = Field(
        default=7 * 86_400.0,
        gt=0,
        le=1e9,
        description="How far back the log is read for a rollout that feedback came late to, when nothing "
        "says where it is.",
    )
    history_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=1e9,
        description="Longest reading of the log's past at once; then it is given up.",
    )

    @field_validator("feedback_scales")
    @classmethod
    def _have_points(cls, scales: dict[str, dict[float, float]]) -> dict[str, dict[float, float]]:
        Feedback(scales=scales)
        points = (number for scale in scales.values() for point in scale.items() for number in point)
        if not all(map(math.isfinite, points)):
            raise ValueError("values and rewards are finite numbers")
        return scales

    def rules(self) -> SessionRules:
        """As the assembly takes them."""
        return SessionRules(
            idle=timedelta(seconds=self.session_idle_s),
            longest=timedelta(seconds=self.session_longest_s),
            close_on=frozenset(self.session_close_on),
            reward=self.session_reward,
            counting=frozenset(self.feedback_scales),
        )
