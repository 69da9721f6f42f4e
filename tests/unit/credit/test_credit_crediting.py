"""Which rollouts of a closed group become samples, and what is said about the others."""

from datetime import timedelta

import pytest

from leyden_credit.crediting import Credited, Crediting, GroupDrop, NamedEstimator, RolloutDrop
from leyden_credit.estimators import estimator
from leyden_credit.groups import ClosedGroup
from leyden_credit.rows import StepDrop
from leyden_platform.testing.rollouts import EPOCH, make_step, make_task, make_trajectory
from leyden_schemas import Trajectory, TrajectoryStatus, cause_id


def named(name: str) -> NamedEstimator:
    """An estimator by name."""
    return NamedEstimator(name, estimator(name))


def credit(*trajectories: Trajectory, crediting: Crediting | None = None) -> Credited:
    """Credit a complete group."""
    return (crediting or Crediting(named("grpo"))).credit(ClosedGroup(0, True, trajectories))


def test_a_group_becomes_samples() -> None:
    good = make_trajectory(1.0, [make_step([1], [2]), make_step([1, 2], [3])], finished_at=EPOCH)
    bad = make_trajectory(0.0, finished_at=EPOCH + timedelta(seconds=9), run="night", attempt=2)
    one, two = credit(good, bad).samples
    assert one.sample_id == cause_id("sample", good.rollout_id, 1)
    assert two.sample_id == cause_id("sample", bad.rollout_id, 2)
    assert (one.policy, one.estimator, one.group_size, one.reward) == ("calculator", "grpo", 2, 1.0)
    assert one.group_id == good.group_id
    assert [span.advantage for span in one.rows[0].spans] == pytest.approx([2**-0.5] * 2, abs=1e-5)
    assert two.rows[0].spans[0].advantage == pytest.approx(-(2**-0.5), abs=1e-5)
    assert two.run == "night"
    assert one.created_at == two.created_at == EPOCH + timedelta(seconds=9)


def test_the_policys_version_or_alias_is_not_part_of_its_name() -> None:
    task = make_task(policy="calculator#serving")
    assert (
        credit(make_trajectory(1.0, task=task), make_trajectory(0.0, task=task)).samples[0].policy
        == "calculator"
    )


def test_mixed_versions_share_a_group_and_are_recorded() -> None:
    old, new = make_trajectory(1.0, [make_step(version=1)]), make_trajectory(0.0, [make_step(version=2)])
    assert [sample.oldest_version for sample in credit(old, new).samples] == [1, 2]


def test_excluded_rollouts_are_no_part_of_the_comparison() -> None:
    lost = make_trajectory(0.0, status=TrajectoryStatus.EXCLUDED, final=[])
    credited = credit(make_trajectory(1.0), make_trajectory(0.0), lost)
    assert [sample.group_size for sample in credited.samples] == [2, 2]
    assert credited.rollouts == [RolloutDrop.EXCLUDED]


def test_fewer_than_two_usable_rollouts_are_dropped() -> None:
    lost = make_trajectory(0.0, status=TrajectoryStatus.EXCLUDED, final=[])
    credited = credit(make_trajectory(1.0), lost)
    assert (credited.samples, credited.group) == ([], GroupDrop.TOO_FEW)


@pytest.mark.parametrize("name", ["grpo", "rloo", "return_to_go"])
def test_a_group_without_variance_is_dropped(name: str) -> None:
    chosen = Crediting(named(name))
    steps = [make_step(air=0.1), make_step()]
    assert credit(make_trajectory(1.0, steps), make_trajectory(1.0, steps), crediting=chosen).group is (
        GroupDrop.ZERO_VARIANCE
    )
    short, long = [make_step()], [make_step(), make_step(), make_step()]
    assert credit(make_trajectory(0.0, short), make_trajectory(0.0, long), crediting=chosen).group is (
        GroupDrop.ZERO_VARIANCE
    )


def test_intermediate_rewards_alone_are_variance_unless_they_weigh_nothing() -> None:
    group = make_trajectory(1.0, [make_step(air=0.1)]), make_trajectory(1.0)
    assert len(credit(*group).samples) == 2
    assert credit(*group, crediting=Crediting(named("grpo"), air=0.0)).group is GroupDrop.ZERO_VARIANCE


def test_a_policy_can_have_an_estimator_of_its_own() -> None:
    crediting = Crediting(named("grpo"), by_policy={"calculator": named("rloo")})
    one, two = credit(make_trajectory(1.0), make_trajectory(0.0), crediting=crediting).samples
    assert one.estimator == "rloo"
    assert [one.rows[0].spans[0].advantage, two.rows[0].spans[0].advantage] == [1.0, -1.0]


def test_steps_keep_their_own_advantage_when_others_are_dropped() -> None:
    crediting = Crediting(named("return_to_go"))
    steps = [make_step([1], [2], untrainable="no_logprobs"), make_step([5], [6], air=0.5)]
    credited = credit(make_trajectory(1.0, steps), make_trajectory(0.0), crediting=crediting)
    # Returns of the first are 1.5 and 1.5; the baseline is 0.
    assert [span.advantage for span in credited.samples[0].rows[0].spans] == [1.5]
    assert credited.steps == [StepDrop.UNTRAINABLE]


def test_a_rollout_with_nothing_to_train_on_still_counts_in_the_comparison() -> None:
    silent = make_trajectory(0.0, [])
    credited = credit(make_trajectory(1.0), silent)
    assert [sample.rollout_id for sample in credited.samples] != [silent.rollout_id]
    assert len(credited.samples) == 1
    assert credited.samples[0].group_size == 2
    assert credited.rollouts == [RolloutDrop.NO_ROWS]


@pytest.mark.parametrize("huge", [1e13, -1e300, 1.7e308])
def test_rewards_beyond_reason_are_left_out(huge: float) -> None:
    credited = credit(make_trajectory(1.0), make_trajectory(0.0), make_trajectory(huge))
    assert credited.rollouts == [RolloutDrop.OUT_OF_RANGE]
    assert len(credited.samples) == 2


def test_the_same_group_gives_the_same_bytes() -> None:
    group = make_trajectory(1.0), make_trajectory(0.25), make_trajectory(0.0)
    first, second = credit(*group), credit(*group)
    assert [sample.model_dump_json() for sample in first.samples] == [
        sample.model_dump_json() for sample in second.samples
    ]
