"""From a closed group to training samples: who is compared, with which estimator, and what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from leyden_credit.estimators import Estimator
from leyden_credit.groups import ClosedGroup
from leyden_credit.rollout import ScoredRollout
from leyden_credit.rows import StepDrop, merge
from leyden_schemas import TrainingSample, Trajectory, TrajectoryStatus, cause_id, parse_policy_ref

_NEGLIGIBLE = 1e-9
_LARGEST = 1e12


class GroupDrop(StrEnum):
    """Why a whole group yields no sample."""

    TOO_FEW = "too_few"
    ZERO_VARIANCE = "zero_variance"
    FAILED = "failed"


class RolloutDrop(StrEnum):
    """Why one rollout of a group yields no sample."""

    EXCLUDED = "excluded"
    OUT_OF_RANGE = "out_of_range"
    NO_ROWS = "no_rows"


@dataclass(frozen=True, slots=True)
class NamedEstimator:
    """An estimator with the name it is recorded under."""

    name: str
    estimate: Estimator


@dataclass(slots=True)
class Credited:
    """The samples of a group, and everything that was left out, by reason."""

    samples: list[TrainingSample] = field(default_factory=list)
    group: GroupDrop | None = None
    rollouts: list[RolloutDrop] = field(default_factory=list)
    steps: list[StepDrop] = field(default_factory=list)


class Crediting:
    """A choice of estimator per policy, and how much intermediate rewards count beside the final one."""

    def __init__(
        self,
        default: NamedEstimator,
        *,
        by_policy: Mapping[str, NamedEstimator] | None = None,
        air: float = 1.0,
    ) -> None:
        self._default, self._by_policy, self._air = default, by_policy or {}, air

    def credit(self, group: ClosedGroup) -> Credited:
        """Samples of the group's usable rollouts. The same group gives the same samples."""
        credited = Credited()
        usable = self._usable(group, credited)
        if len(usable) < 2:
            credited.group = GroupDrop.TOO_FEW
            return credited
        policy = parse_policy_ref(usable[0][0].task.policy)[0]
        chosen = self._by_policy.get(policy, self._default)
        rollouts = [rollout for _, rollout in usable]
        advantages = chosen.estimate(rollouts)
        if len(set(rollouts)) < 2 or negligible(advantages):
            credited.group = GroupDrop.ZERO_VARIANCE
            return credited
        created_at = max(trajectory.finished_at for trajectory, _ in usable)
        for (trajectory, _), by_step in zip(usable, advantages, strict=True):
            rows, dropped = merge(trajectory.steps, by_step, policy=policy)
            credited.steps += dropped
            if not rows:
                credited.rollouts.append(RolloutDrop.NO_ROWS)
                continue
            credited.samples.append(
                TrainingSample(
                    tenant=trajectory.tenant,
                    run=trajectory.run,
                    sample_id=cause_id("sample", trajectory.rollout_id, trajectory.attempt),
                    rollout_id=trajectory.rollout_id,
                    group_id=trajectory.group_id,
                    policy=policy,
                    rows=rows,
                    reward=trajectory.reward,
                    estimator=chosen.name,
                    group_size=len(usable),
                    created_at=created_at,
                )
            )
        return credited

    def _usable(self, group: ClosedGroup, credited: Credited) -> list[tuple[Trajectory, ScoredRollout]]:
        usable = []
        for trajectory in group.trajectories:
            rollout = ScoredRollout(
                trajectory.reward, tuple(self._air * step.reward for step in trajectory.steps)
            )
            if trajectory.status is not TrajectoryStatus.SCORED:
                credited.rollouts.append(RolloutDrop.EXCLUDED)
            elif not all(abs(reward) <= _LARGEST for reward in (rollout.final, *rollout.air)):
                credited.rollouts.append(RolloutDrop.OUT_OF_RANGE)
            else:
                usable.append((trajectory, rollout))
        return usable


def negligible(advantages: Sequence[Sequence[float]]) -> bool:
    """Whether no step of the group would move the policy."""
    return all(abs(advantage) <= _NEGLIGIBLE for by_step in advantages for advantage in by_step)
