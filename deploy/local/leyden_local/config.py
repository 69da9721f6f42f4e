"""What a local stack is made of: where it lives, which policy it serves, which user code it runs."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from leyden_schemas.base import Name


class StackConfig(BaseModel):
    """Everything ``leyden up`` can be told; written to ``stack.json`` for the supervisor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path = Field(description="Where state, checkpoints and logs live.")
    policy: Name = "calculator"
    model: Path | None = Field(default=None, description="Hugging Face folder imported as version 0.")
    agents: dict[str, dict[str, Any]] = Field(default_factory=dict, description="As LEYDEN_RUNNER_AGENTS.")
    rewards: dict[str, str] = Field(default_factory=dict, description="As LEYDEN_CATALOGUE_REWARDS.")
    path: list[Path] = Field(default_factory=list, description="Folders of user code.")
    train: bool = Field(default=True, description="Whether a learner runs.")
    run: Name = "default"
    gateway_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port.")
    kafka_port: int = Field(default=0, ge=0, le=65535, description="0 takes a free port.")
    settings: dict[str, str] = Field(
        default_factory=dict, description="More environment variables for the services, LEYDEN_… names."
    )
    start_timeout_s: float = Field(default=120.0, gt=0)

    @field_validator("settings")
    @classmethod
    def _ours(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.startswith(("LEYDEN_", "OTEL_")):
                raise ValueError(f"{name}: settings of the services begin with LEYDEN_ or OTEL_")
        return value

    @model_validator(mode="after")
    def _folders_exist(self) -> Self:
        for folder in [*self.path, *([self.model] if self.model else [])]:
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder")
        return self


def calculator(root: Path, directory: Path, **changes: Any) -> StackConfig:
    """The stack of the calculator example, which lies in ``root/examples/calculator``."""
    examples = root / "examples"
    return StackConfig(
        **{
            "directory": directory,
            "policy": "calculator",
            "model": examples / "calculator" / "seed",
            "agents": {"default": {"callable": "calculator.agent:solve"}},
            "rewards": {"calculator": "calculator.reward:reward"},
            "path": [examples],
            **changes,
        }
    )
