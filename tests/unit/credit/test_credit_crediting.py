"""Which rollouts of a closed group become samples, and what is said about the others."""

from datetime import timedelta

import pytest

from leyden_credit.alone import Alone
from leyden_credit.crediting import Credited, Crediting, GroupDrop, RolloutDrop
from leyden_credit.estimators import chosen, known
from leyden_credit.groups import ClosedGroup, Member
from leyden_credit.rows import StepDrop
from leyden_platform.testing.rollouts import EPOCH, make_step, make_task, make_trajectory
from leyden_schemas import JsonObject, RewardTerm, Trajectory, TrajectoryStatus, cause_id


def said(text: str) -> JsonObject:
    """A request that ends with these words."""
    return {"messages": [{"role": "user", "content": text}]}


def credit(*trajectories: Trajectory, crediting: Crediting | None = None) -> Credited:
    """Credit a complete group."""
    members = tuple(map(Member.of, trajectories))
    return (crediting or Crediting(chosen("grpo"))).credit(ClosedGroup(0, True, members))


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
    credited = credit(old, new)
    assert [sample.oldest_version for sample in credited.samples] == [1, 2]
    assert credited.versions == [1, 2]
    assert credit(old, old.model_copy(update={"final": []})).versions == [1]


def test_excluded_rollouts_are_no_part_of_the_comparison() -> None:
    lost = make_trajectory(0.0, status=TrajectoryStatus.EXCLUDED, final=[])
    credited = credit(make_trajectory(1.0), make_trajectory(0.0), lost)
    assert [sample.group_size for sample in credited.samples] == [2, 2]
    assert credited.rollouts == [RolloutDrop.EXCLUDED]


def test_fewer_than_two_usable_rollouts_are_dropped() -> None:
    lost = make_trajectory(0.0, status=TrajectoryStatus.EXCLUDED, final=[])
    credited = credit(make_trajectory(1.0), lost)
    assert (credited.samples, credited.group) == ([], GroupDrop.TOO_FEW)


@pytest.mark.parametrize("name", known())
def test_a_group_without_variance_is_dropped(name: str) -> None:
    crediting = Crediting(chosen(name))
    steps = [make_step(air=0.1, request=said("a")), make_step(request=said("b"))]
    assert credit(make_trajectory(1.0, steps), make_trajectory(1.0, steps), crediting=crediting).group is (
        GroupDrop.ZERO_VARIANCE
    )
    short, long = [make_step()], [make_step(), make_step(), make_step()]
    assert credit(make_trajectory(0.0, short), make_trajectory(0.0, long), crediting=crediting).group is (
        GroupDrop.ZERO_VARIANCE
    )


def test_intermediate_rewards_alone_are_variance_unless_they_weigh_nothing() -> None:
    group = make_trajectory(1.0, [make_step(air=0.1)]), make_trajectory(1.0)
    assert len(credit(*group).samples) == 2
    assert credit(*group, crediting=Crediting(chosen("grpo"), air=0.0)).group is GroupDrop.ZERO_VARIANCE


def test_a_policy_can_have_an_estimator_of_its_own() -> None:
    crediting = Crediting(chosen("grpo"), by_policy={"calculator": chosen("rloo")})
    one, two = credit(make_trajectory(1.0), make_trajectory(0.0), crediting=crediting).samples
    assert one.estimator == "rloo"
    assert [one.rows[0].spans[0].advantage, two.rows[0].spans[0].advantage] == [1.0, -1.0]


def test_a_sample_names_the_estimator_with_its_parameters() -> None:
    crediting = Crediting(chosen({"name": "grpo", "min_std": 2.0}))
    one, _ = credit(make_trajectory(1.0), make_trajectory(0.0), crediting=crediting).samples
    assert one.estimator == "grpo(min_std=2.0)"
    assert one.rows[0].spans[0].advantage == pytest.approx(0.25, abs=1e-5)


def test_steps_that_were_told_the_same_are_compared() -> None:
    """Episodes ±0.5, and among the steps at the door ±0.5 again; the key and the window were seen once."""
    door, key, window = (said(text) for text in ("a door", "a key", "a window"))
    won = make_trajectory(1.0, [make_step(request=door), make_step([7], [8], request=key)])
    lost = make_trajectory(0.0, [make_step(request=door), make_step([7], [9], request=window)])
    credited = credit(won, lost, crediting=Crediting(chosen("gigpo")))
    assert [[row.spans[0].advantage for row in sample.rows] for sample in credited.samples] == [
        [1.0, 0.5],
        [-1.0, -0.5],
    ]


def test_agents_are_compared_with_themselves() -> None:
    def game(white: float) -> Trajectory:
        final = [RewardTerm(name="agent.white", value=white), RewardTerm(name="agent.black", value=-white)]
        return make_trajectory(
            steps=[make_step(agent="white"), make_step([7], [8], agent="black")], final=final
        )

    first, second = credit(game(1.0), game(-1.0), crediting=Crediting(chosen("rae"))).samples
    assert [row.spans[0].advantage for row in first.rows] == [2.0, -2.0]
    assert [row.spans[0].advantage for row in second.rows] == [-2.0, 2.0]
    # Their rewards add up to nothing, so without roles there is nothing to compare.
    assert credit(game(1.0), game(-1.0)).group is GroupDrop.ZERO_VARIANCE


def test_terms_are_normalised_one_by_one_with_their_weights() -> None:
    def graded(right: float, seconds: float) -> Trajectory:
        weighed = RewardTerm(name="seconds", value=seconds, weight=-0.5)
        return make_trajectory(final=[RewardTerm(name="right", value=right), weighed])

    gdpo = Crediting(chosen("gdpo"))
    one, two = credit(graded(1.0, 900.0), graded(0.0, 300.0), crediting=gdpo).samples
    expected = 2**-0.5 * (1.0 - 0.5) / 1.25**0.5
    assert one.rows[0].spans[0].advantage == pytest.approx(expected, abs=1e-5)
    assert two.rows[0].spans[0].advantage == pytest.approx(-expected, abs=1e-5)


def test_steps_keep_their_own_advantage_when_others_are_dropped() -> None:
    crediting = Crediting(chosen("return_to_go"))
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
    assert (credited.samples[0].group_size, credited.samples[0].group_samples) == (2, 1)
    assert credited.rollouts == [RolloutDrop.NO_ROWS]


def test_a_sample_that_no_message_holds_is_dropped_before_it_is_made() -> None:
    """An agent that rewrites its history has all of its prompt in every row."""
    rewriting = make_trajectory(1.0, [make_step([turn] * 100, [1]) for turn in range(20)])
    crediting = Crediting(chosen("grpo"), most_tokens=2_000)
    credited = credit(rewriting, make_trajectory(0.0), crediting=crediting)
    assert [sample.rollout_id for sample in credited.samples] != [rewriting.rollout_id]
    assert (credited.samples[0].group_size, credited.samples[0].group_samples) == (2, 1)
    assert credited.rollouts == [RolloutDrop.TOO_LARGE]


def test_samples_name_their_queue_their_siblings_and_what_was_cut_off() -> None:
    cut = make_step([1], [2], finish_reason="length")
    good, bad = make_trajectory(1.0, [cut], queue="gpu"), make_trajectory(0.0, queue="gpu")
    one, two = credit(good, bad).samples
    assert [(sample.queue, sample.group_samples) for sample in (one, two)] == [("gpu", 2)] * 2
    assert [sample.rows[0].spans[0].truncated for sample in (one, two)] == [True, False]
    assert credit(make_trajectory(1.0), make_trajectory(0.0)).samples[0].queue == "default"


@pytest.mark.parametrize("huge", [1e13, -1e300, 1.7e308])
def test_rewards_beyond_reason_are_left_out(huge: float) -> None:
    credited = credit(make_trajectory(1.0), make_trajectory(0.0), make_trajectory(huge))
    assert credited.rollouts == [RolloutDrop.OUT_OF_RANGE]
    assert len(credited.samples) == 2


def test_terms_that_overflow_or_cancel_out_are_left_out_too() -> None:
    overflow = make_trajectory(final=[RewardTerm(name="x", value=1e300, weight=1e300)])
    cancel = make_trajectory(final=[RewardTerm(name="x", value=1e300), RewardTerm(name="y", value=-1e300)])
    step = make_trajectory(steps=[make_step(air=1e300)])
    credited = credit(make_trajectory(1.0), make_trajectory(0.0), overflow, cancel, step)
    assert credited.rollouts == [RolloutDrop.OUT_OF_RANGE] * 3
    assert len(credited.samples) == 2


@pytest.mark.parametrize("name", known())
def test_the_same_group_gives_the_same_bytes(name: str) -> None:
    group = [make_trajectory(1.0), make_trajectory(0.25), make_trajectory(0.0)]
    crediting = Crediting(chosen(name))
    first, second = credit(*group, crediting=crediting), credit(*group, crediting=crediting)
    assert len(first.samples) == 3
    assert [sample.model_dump_json() for sample in first.samples] == [
        sample.model_dump_json() for sample in second.samples
    ]


def test_a_rollout_alone_in_its_task_is_measured_by_a_baseline_if_there_is_one() -> None:
    session = make_trajectory(1.0, [make_step([1], [2], air=0.25), make_step([1, 2, 3], [4])])
    assert credit(session).group is GroupDrop.TOO_FEW
    crediting = Crediting(chosen("grpo"), alone=Alone(baseline=0.5))
    (sample,) = credit(session, crediting=crediting).samples
    assert (sample.estimator, sample.group_size) == ("alone(baseline=0.5)", 1)
    assert [span.advantage for span in sample.rows[0].spans] == [0.75, 0.75]
    assert credit(make_trajectory(0.5), crediting=crediting).group is GroupDrop.ZERO_VARIANCE
    silent = make_trajectory(0.0, status=TrajectoryStatus.EXCLUDED, final=[])
    assert credit(silent, crediting=crediting).group is GroupDrop.TOO_FEW


def test_one_that_is_left_of_several_is_not_alone() -> None:
    crediting = Crediting(chosen("grpo"), alone=Alone(baseline=0.5))
    one_of_two = make_trajectory(1.0, task=make_task(samples=2))
    assert credit(one_of_two, crediting=crediting).group is GroupDrop.TOO_FEW
    compared = credit(make_trajectory(1.0), make_trajectory(0.0), crediting=crediting)
    assert {sample.estimator for sample in compared.samples} == {"grpo"}
