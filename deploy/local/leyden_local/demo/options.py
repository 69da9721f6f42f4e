"""What a demo run can be told, and the training settings it gives the services."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

RUN = "demo"
WARMUP_STEPS = 2


class DemoOptions(BaseModel):
    """One demo run. The defaults are the ones the committed curves were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: Path = Field(description="The folder that holds the examples.")
    reports: Path = Path("reports")
    seed: int = 0
    steps: int = Field(default=26, ge=1, description="Learner steps.")
    batch_rollouts: int = Field(default=48, ge=2, description="Rollouts of a step.")
    batch_timeout_s: float = Field(
        default=8.0, gt=0, description="After this long a step takes what is there."
    )
    samples: int = Field(default=8, ge=2, description="Rollouts of a task, its group.")
    heldout: int = Field(default=200, ge=1, description="Held-out tasks of each evaluation.")
    staleness: int = Field(default=2, ge=0, description="Versions a rollout may be late.")
    start_timeout_s: float = Field(default=600.0, gt=0, description="vLLM takes a minute or two.")
    lr: float = Field(default=5e-4, gt=0, description="Peak learning rate.")
    concurrency: int = Field(default=24, ge=1, description="Rollouts under way at a time.")
    rollout_timeout_s: float = Field(default=60.0, gt=0)
    train_timeout_s: float = Field(default=900.0, gt=0)
    evaluation_timeout_s: float = Field(default=300.0, gt=0)
    keep: bool = Field(default=False, description="Keep the stack's folder: logs, checkpoints, database.")
    settings: dict[str, str] = Field(
        default_factory=dict, description="Over the demo's own service settings."
    )

    def service_settings(self) -> dict[str, str]:
        """Environment of the services for this run."""
        return {
            "LEYDEN_LEARNER_SEED": str(self.seed),
            "LEYDEN_LEARNER_MAX_STEPS": str(self.steps),
            "LEYDEN_LEARNER_TOTAL_STEPS": str(max(self.steps + self.steps // 2, WARMUP_STEPS + 1)),
            "LEYDEN_LEARNER_BATCH_ROLLOUTS": str(self.batch_rollouts),
            "LEYDEN_LEARNER_MIN_ROLLOUTS": str(max(1, self.batch_rollouts // 3)),
            "LEYDEN_LEARNER_BATCH_TIMEOUT_S": f"{self.batch_timeout_s:g}",
            "LEYDEN_LEARNER_LR": f"{self.lr:g}",
            "LEYDEN_LEARNER_LR_SCHEDULE": "linear",
            "LEYDEN_LEARNER_WARMUP_STEPS": str(WARMUP_STEPS),
            "LEYDEN_LEARNER_BETAS": "[0.9, 0.95]",
            "LEYDEN_CREDIT_AIR_WEIGHT": "0",
            "LEYDEN_RUNNER_CONCURRENCY": str(self.concurrency),
        } | self.settings
