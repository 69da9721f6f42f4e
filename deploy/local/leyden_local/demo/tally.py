"""What the log says about a run so far: a fold over trajectories, samples and models."""

from dataclasses import dataclass, field
from uuid import UUID

from leyden_schemas import (
    AliasMoved,
    ModelPublished,
    Split,
    Task,
    TrainingSample,
    Trajectory,
    TrajectoryStatus,
)


@dataclass(slots=True)
class Tally:
    """Counts of one run. ``take`` is idempotent: a message seen twice counts once."""

    run: str
    policy: str
    asked: int = 0
    finished: dict[UUID, Trajectory] = field(default_factory=dict)
    accepted: set[UUID] = field(default_factory=set)
    rewards: dict[UUID, float] = field(default_factory=dict)
    steps: dict[int, ModelPublished] = field(default_factory=dict)
    serving: int | None = None
    rewards_by_version: dict[int, list[float]] = field(default_factory=dict)
    completions: int = 0
    tokens: int = 0

    def take(self, message: object) -> None:
        """Fold one message in; those of other runs are ignored."""
        match message:
            case Trajectory() if message.run == self.run and message.rollout_id not in self.finished:
                self._finish(message)
            case TrainingSample() if message.run == self.run:
                self.accepted.add(message.rollout_id)
            case ModelPublished() if message.policy == self.policy and message.run == self.run:
                if message.step is not None:
                    self.steps[message.step] = message
            case AliasMoved() if message.policy == self.policy and message.alias == "serving":
                self.serving = message.version
            case _:
                pass

    def _finish(self, trajectory: Trajectory) -> None:
        self.finished[trajectory.rollout_id] = trajectory
        self.completions += len(trajectory.steps)
        self.tokens += sum(len(step.token_ids) for step in trajectory.steps)
        if trajectory.status is TrajectoryStatus.SCORED and trajectory.task.split is Split.TRAIN:
            self.rewards[trajectory.rollout_id] = trajectory.reward
            for version in {step.version for step in trajectory.steps if step.version is not None}:
                self.rewards_by_version.setdefault(version, []).append(trajectory.reward)

    def ask(self, tasks: list[Task]) -> None:
        """Count rollouts asked for."""
        self.asked += sum(task.samples for task in tasks)

    @property
    def running(self) -> int:
        """Rollouts asked for that have not come back."""
        return self.asked - len(self.finished)

    @property
    def step(self) -> int:
        """Learner steps published."""
        return max(self.steps, default=0)

    @property
    def trained(self) -> int:
        """Rollouts that the published steps were trained on."""
        return sum(int(model.metrics.get("rollouts", 0)) for model in self.steps.values())

    def recent_reward(self, last: int = 96) -> float | None:
        """Mean final reward of the last rollouts."""
        values = list(self.rewards.values())[-last:]
        return sum(values) / len(values) if values else None

    @property
    def staleness(self) -> float | None:
        """Mean versions between sampling and training, of the last step."""
        metrics = self.steps[self.step].metrics if self.steps else {}
        value = metrics.get("staleness_mean", metrics.get("staleness"))
        return float(value) if value is not None else None
