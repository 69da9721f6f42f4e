"""From a closed group to training samples: who is compared, with which estimator, and what is left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from leyden_credit.alone import Alone
from leyden_credit.estimators import Estimator
from leyden_credit.groups import ClosedGroup
from leyden_credit.rollout import ScoredRollout, scored
from leyden_credit.rows import StepDrop, merge
from leyden_schemas import TokenRow, TrainingSample, Trajectory, TrajectoryStatus, cause_id, parse_policy_ref

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
    TOO_LARGE = "too_large"


@dataclass(slots=True)
class Credited:
    """The samples of a group, and everything that was left out, by reason."""

    samples: list[TrainingSample] = field(default_factory=list)
    group: GroupDrop | None = None
    rollouts: list[RolloutDrop] = field(default_factory=list)
    steps: list[StepDrop] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The policy versions that sampled the group, oldest first."""
        spans = (span for sample in self.samples for row in sample.rows for span in row.spans)
        return sorted({span.version for span in spans})


class Crediting:
    """A choice of estimator per policy, and how much intermediate rewards count beside the final one.

    With ``agents``, only what these agents sampled is trained on; all of a rollout is compared. A sample of
    over ``most_tokens`` is not made, because no message holds it.
    """

    def __init__(
        self,
        default: Estimator,
        *,
        by_policy: Mapping[str, Estimator] | None = None,
        air: float = 1.0,
        agents: Collection[str] = (),
        alone: Alone | None = None,
        most_tokens: int | None = None,
    ) -> None:
        self._default, self._by_policy, self._air = default, by_policy or {}, air
        self._agents, self._alone, self._most_tokens = agents, alone, most_tokens

    def credit(self, group: ClosedGroup) -> Credited:
        """Samples of the group's usable rollouts. The same group gives the same samples."""
        credited = Credited()
        usable = self._usable(group, credited)
        estimator = self._estimator(usable)
        if estimator is None:
            credited.group = GroupDrop.TOO_FEW
            return credited
        advantages = estimator([rollout for _, rollout in usable])
        if negligible(advantages):
            credited.group = GroupDrop.ZERO_VARIANCE
            return credited
        compared = [trajectory for trajectory, _ in usable]
        merged: list[tuple[Trajectory, list[TokenRow]]] = []
        for trajectory, by_step in zip(compared, advantages, strict=True):
            rows, dropped, too_large = merge(
                trajectory.steps,
                by_step,
                policy=policy_of(trajectory),
                agents=self._agents,
                most_tokens=self._most_tokens,
            )
            credited.steps += dropped
            if rows:
                merged.append((trajectory, rows))
            else:
                credited.rollouts.append(RolloutDrop.TOO_LARGE if too_large else RolloutDrop.NO_ROWS)
        credited.samples = [
            _sample(trajectory, rows, estimator, compared, len(merged)) for trajectory, rows in merged
        ]
        return credited

    def _estimator(self, usable: Sequence[tuple[Trajectory, ScoredRollout]]) -> Estimator | None:
        """None when there is too little to compare."""
        if not usable:
            return None
        trajectory, _ = usable[0]
        if len(usable) > 1:
            return self._by_policy.get(policy_of(trajectory), self._default)
        return self._alone if trajectory.task.samples == 1 else None

    def _usable(self, group: ClosedGroup, credited: Credited) -> list[tuple[Trajectory, ScoredRollout]]:
        usable = []
        for member in group.members:
            trajectory = member.trajectory
            rollout = scored(trajectory, member.states, air=self._air)
            if trajectory.status is not TrajectoryStatus.SCORED:
                credited.rollouts.append(RolloutDrop.EXCLUDED)
            elif not in_range(rollout):
                credited.rollouts.append(RolloutDrop.OUT_OF_RANGE)
            else:
                usable.append((trajectory, rollout))
        return usable


def _sample(
    trajectory: Trajectory,
    rows: list[TokenRow],
    estimator: Estimator,
    compared: Sequence[Trajectory],
    siblings: int,
) -> TrainingSample:
    return TrainingSample(
        tenant=trajectory.tenant,
        run=trajectory.run,
        sample_id=cause_id("sample", trajectory.rollout_id, trajectory.attempt),
        rollout_id=trajectory.rollout_id,
        group_id=trajectory.group_id,
        policy=policy_of(trajectory),
        rows=rows,
        reward=trajectory.reward,
        estimator=estimator.label,
        group_size=len(compared),
        group_samples=siblings,
        queue=trajectory.queue,
        created_at=max(other.finished_at for other in compared),
    )


def policy_of(trajectory: Trajectory) -> str:
    """The name of the policy that the task is for, without version or alias."""
    return parse_policy_ref(trajectory.task.policy)[0]


def in_range(rollout: ScoredRollout) -> bool:
    """Whether every reward term is a number that can be compared: finite and of a sane size."""
    by_place = (rollout.terms, *(step.terms for step in rollout.steps))
    return all(
        abs(number) <= _LARGEST
        for terms in by_place
        for term in terms
        for number in (term.value, term.weight)
    )


def negligible(advantages: Sequence[Sequence[float]]) -> bool:
    """Whether no step of the group would move the policy."""
    return all(abs(advantage) <= _NEGLIGIBLE for by_step in advantages for advantage in by_step)
