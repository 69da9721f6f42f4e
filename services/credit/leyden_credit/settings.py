"""Settings of the credit service (``LEYDEN_CREDIT_…``)."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from leyden_credit.estimators import Choice, chosen
from leyden_platform.settings import ServiceSettings


class CreditSettings(ServiceSettings):
    """What the credit service can be told."""

    model_config = SettingsConfigDict(
        env_prefix="LEYDEN_CREDIT_", frozen=True, extra="ignore", env_nested_delimiter="__"
    )

    group: str = Field(default="leyden-credit", min_length=1, description="Consumer group.")
    estimator: Choice = Field(
        default="grpo",
        description="Estimator of policies that estimators does not name: a name, or JSON with parameters: "
        '{"name": "gigpo", "w": 0.5}',
    )
    estimators: dict[str, Choice] = Field(
        default_factory=dict,
        description='Estimator by policy name, as JSON: {"calculator": "rloo", "player": {"name": "rae"}}',
    )
    air_weight: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="How much intermediate rewards count beside the final one; 0 trains on outcomes alone.",
    )
    agents: list[str] = Field(
        default_factory=list,
        description="Agents whose steps are trained on, as JSON; all of them when empty. The steps of others "
        "are left out of the rows and still count in what is compared.",
    )
    alone_baseline: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Trains on rollouts that are alone in their task, such as sessions of production: their "
        "reward less this one is the advantage. None: they are not trained on.",
    )
    deadline_s: float = Field(
        default=600.0, gt=0, le=1e9, description="A group is closed this long after its first trajectory."
    )
    remember: int = Field(
        default=10_000,
        ge=1,
        description="Closed groups remembered per partition, to count late trajectories.",
    )

    @model_validator(mode="after")
    def _estimators_exist(self) -> Self:
        for choice in (self.estimator, *self.estimators.values()):
            chosen(choice)
        if named := sorted(policy for policy in self.estimators if {"@", "#"} & {*policy}):
            raise ValueError(
                f"estimators: {', '.join(named)} names a version or an alias; give the policy's name alone, "
                "which is what samples are credited by"
            )
        return self
