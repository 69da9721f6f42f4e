"""Settings from the environment, and the errors that a wrong one gives."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from leyden_platform.settings import CatalogueSettings
from leyden_reward.settings import RewardSettings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_AIR_WEIGHTS", '{"repeated_call": -0.2}')
    monkeypatch.setenv("LEYDEN_REWARD_DEADLINE_S", "5")
    monkeypatch.setenv("LEYDEN_CATALOGUE_REWARDS", '{"mine": "code:score"}')
    monkeypatch.setenv("LEYDEN_REWARD_JUDGE_URL", "http://gateway/v1")
    monkeypatch.setenv("LEYDEN_REWARD_JUDGE_API_KEY", "secret")
    monkeypatch.setenv("LEYDEN_REWARD_SANDBOX_COUNT", "3")
    monkeypatch.setenv("LEYDEN_REWARD_DATABASES", '{"shop": "/data/shop.db"}')
    settings = RewardSettings()
    assert (settings.judge.url, settings.sandbox.count) == ("http://gateway/v1", 3)
    assert settings.databases == {"shop": "/data/shop.db"}
    assert "secret" not in repr(settings)
    assert settings.air_weights == {"repeated_call": -0.2}
    assert settings.deadline_s == 5.0
    assert settings.catalogue.rewards == {"mine": "code:score"}


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"no rule politeness; the rules are tool_call_succeeded, "):
        RewardSettings(air_weights={"politeness": 1.0})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"air_weights": {"recovered_error": 0.1}}, "it would pay to provoke errors"),
        ({"air_weights": {"tool_call_failed": 0.0}}, "it would pay to provoke errors"),
        ({"air_weights": {"refusal": float("inf")}}, "refusal: give a finite number"),
        ({"catalogue": {"rules": {"refusal": "m:f"}}}, "refusal is a rule that exists"),
        ({"catalogue": {"rules": {"signal.x": "m:f"}}}, "names of signals begin so"),
        ({"air_goal": 0.0}, "air_goal"),
        ({"air_latency_budget_s": 0.0}, "air_latency_budget_s"),
    ],
)
def test_rules_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RewardSettings(**settings)


@pytest.mark.parametrize("seconds", ["inf", "1e12", "nan", "0"])
@pytest.mark.parametrize(
    "name",
    [
        "GRACE_S",
        "DEADLINE_S",
        "STARTUP_S",
        "RANKING_DEADLINE_S",
        "SESSION_IDLE_S",
        "SESSION_LONGEST_S",
        "FEEDBACK_HORIZON_S",
        "HISTORY_TIMEOUT_S",
        "JUDGE_DEADLINE_S",
    ],
)
def test_a_time_that_no_calendar_holds_ends_the_start(
    name: str, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LEYDEN_REWARD_{name}", seconds)
    with pytest.raises(ValidationError, match=name.lower().removeprefix("judge_")):
        RewardSettings()


def test_rules_of_the_users_have_weights_too() -> None:
    settings = RewardSettings(
        air_weights={"mine": 0.5, "tool_call_failed": 0.0, "recovered_error": 0.0},
        catalogue=CatalogueSettings(rules={"mine": "code:rule"}),
    )
    assert settings.air_weights["mine"] == 0.5


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            '{"name": "numerc"}',
            "session_reward: reward 'numerc' is not known; add it to LEYDEN_CATALOGUE_REW",
        ),
        (
            '{"name": "numeric", "params": {"tolerence": 1}}',
            "session_reward: reward.params of numeric: toler",
        ),
        ('{"name": "judge", "params": {"rubric": 5}}', "session_reward: reward.params of judge: rubric"),
        (
            '{"name": "weighted", "params": {"of": [{"name": "oops"}]}}',
            "session_reward: reward 'oops' is not",
        ),
        ('{"name": "weighted", "params": {"of": []}}', "session_reward: reward.params of weighted: of"),
    ],
)
def test_a_reward_of_sessions_that_cannot_be_given_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, reward: str, said: str
) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_SESSION_REWARD", reward)
    with pytest.raises(ValidationError, match=said):
        RewardSettings()


def test_a_reward_of_sessions_may_be_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{"name": "mine", "params": {"any": 1}}, {"name": "feedback"}]
    reward = {"name": "weighted", "params": {"of": parts}}
    monkeypatch.setenv("LEYDEN_CATALOGUE_REWARDS", '{"mine": "code:score"}')
    monkeypatch.setenv("LEYDEN_REWARD_SESSION_REWARD", json.dumps(reward))
    assert RewardSettings().sessions.rules().reward.name == "weighted"


@pytest.mark.parametrize("weight", ["Infinity", "-Infinity", "NaN"])
def test_weights_of_signals_are_finite(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_SIGNAL_WEIGHTS", f'{{"thumb": 1, "x": {weight}}}')
    with pytest.raises(ValidationError, match="x: give a finite number"):
        RewardSettings()


@pytest.mark.parametrize("scale", ['{"-1": NaN, "1": 1}', '{"-1": 0, "Infinity": 1}'])
def test_scales_of_feedback_are_finite(monkeypatch: pytest.MonkeyPatch, scale: str) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_FEEDBACK_SCALES", f'{{"thumb": {scale}}}')
    with pytest.raises(ValidationError, match="finite number"):
        RewardSettings()
