"""What feedback is worth: scales, whose word counts, and that silence is no reward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from leyden_platform.testing.rollouts import make_step, make_task, make_trajectory
from leyden_reward.feedback import SCALES, FeedbackReward, graded, is_part_of, scaled
from leyden_reward.rewards.verdict import Graded, Reason, Refused
from leyden_reward.session_settings import SessionSettings
from leyden_schemas import RewardSpec, RewardTerm, Step

STARS = {1.0: 0.0, 3.0: 0.5, 5.0: 1.0}


def said(name: str, value: float, text: str | None = None) -> RewardTerm:
    """A signal as the assembly keeps it."""
    return RewardTerm(name=f"signal.{name}", value=value, weight=0.0, feedback=text)


def worth(*signals: RewardTerm, steps: tuple[Step, ...] = ()) -> float:
    return sum(term.weighted for term in graded(signals, steps))


@pytest.mark.parametrize(
    ("value", "reward"),
    [(0.0, 0.0), (1.0, 0.0), (2.0, 0.25), (3.0, 0.5), (4.5, 0.875), (5.0, 1.0), (9.0, 1.0)],
)
def test_a_scale_is_linear_between_its_points_and_constant_outside(value: float, reward: float) -> None:
    assert scaled(value, STARS) == reward


def test_a_scale_of_one_point_is_constant() -> None:
    assert {scaled(value, {1.0: 0.25}) for value in (-5.0, 1.0, 5.0)} == {0.25}


@given(st.floats(-1e9, 1e9), st.dictionaries(st.floats(-10, 10), st.floats(-1, 1), min_size=1, max_size=5))
def test_no_value_leaves_the_scale(value: float, scale: dict[float, float]) -> None:
    assert min(scale.values()) - 1e-9 <= scaled(value, scale) <= max(scale.values()) + 1e-9


def test_thumbs_scores_and_corrections() -> None:
    assert worth(said("thumb", 1.0)) == 1.0
    assert worth(said("thumb", -1.0)) == 0.0
    assert worth(said("score", 0.3)) == 0.3
    assert worth(said("correction", 1.0, "7")) == 0.0
    assert worth(said("thumb", 1.0), said("score", 0.5), said("correction", 1.0)) == 0.5


def test_the_last_word_of_each_kind_counts() -> None:
    assert worth(said("thumb", -1.0), said("score", 0.4), said("thumb", 1.0)) == pytest.approx(0.7)


def test_feedback_on_the_whole_goes_before_feedback_on_steps() -> None:
    steps = tuple(make_step(terms=[said("thumb", value)]) for value in (1.0, -1.0, -1.0))
    assert worth(steps=steps) == pytest.approx(1 / 3)
    assert worth(said("thumb", 1.0), steps=steps) == 1.0


def test_terms_keep_the_words_and_other_signals_do_not_count() -> None:
    (term,) = graded([said("latency", 9.0), said("thumb", -1.0, "too slow")], [])
    assert (term.name, term.feedback) == ("feedback.thumb", "too slow")
    assert graded([said("latency", 9.0), RewardTerm(name="thumb", value=1.0)], [make_step(air=0.1)]) == ()


async def test_silence_is_refused_and_not_zero() -> None:
    trajectory = make_trajectory(task=make_task(reward=RewardSpec(name="feedback")))
    verdict = await FeedbackReward((), SCALES).grade(trajectory)
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.NO_FEEDBACK


async def test_a_task_may_have_a_scale_of_its_own() -> None:
    spec = RewardSpec(name="feedback", params={"scales": {"stars": {"1": 0, "5": 1}}})
    trajectory = make_trajectory(task=make_task(reward=spec))
    verdict = await FeedbackReward((said("stars", 4.0), said("thumb", -1.0)), SCALES).grade(trajectory)
    assert isinstance(verdict, Graded)
    assert [(term.name, term.weighted) for term in verdict.terms] == [("feedback.stars", 0.75)]


@pytest.mark.parametrize(
    ("spec", "is_part"),
    [
        (RewardSpec(name="feedback"), True),
        (RewardSpec(name="exact_match"), False),
        (RewardSpec(name="weighted", params={"of": [{"name": "regex"}, {"name": "feedback"}]}), True),
        (RewardSpec(name="gated", params={"gate": {"name": "regex"}, "then": {"name": "feedback"}}), True),
        (RewardSpec(name="weighted", params={"of": "nonsense"}), False),
    ],
)
def test_rewards_that_late_feedback_changes(spec: RewardSpec, is_part: bool) -> None:
    assert is_part_of(spec) is is_part


def test_settings_are_what_the_assembly_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_SESSION_CLOSE_ON", '["stars"]')
    monkeypatch.setenv("LEYDEN_REWARD_FEEDBACK_SCALES", '{"stars": {"1": 0, "5": 1}}')
    monkeypatch.setenv("LEYDEN_REWARD_SESSION_REWARD", '{"name": "clipped", "params": {}}')
    settings = SessionSettings()
    rules = settings.rules()
    assert settings.feedback_scales == {"stars": {1.0: 0.0, 5.0: 1.0}}
    assert rules.counting == rules.close_on == frozenset({"stars"})
    assert rules.reward.name == "clipped"
    assert rules.idle.total_seconds() == 3600


def test_a_scale_without_points_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one point"):
        SessionSettings(feedback_scales={"thumb": {}})
