"""Settings from the environment, and the errors that a wrong one gives."""

import pytest
from pydantic import ValidationError

from leyden_reward.settings import RewardSettings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_AIR_WEIGHTS", '{"repeated_call": -0.2}')
    monkeypatch.setenv("LEYDEN_REWARD_DEADLINE_S", "5")
    monkeypatch.setenv("LEYDEN_CATALOGUE_REWARDS", '{"mine": "code:score"}')
    settings = RewardSettings()
    assert settings.air_weights == {"repeated_call": -0.2}
    assert settings.deadline_s == 5.0
    assert settings.catalogue.rewards == {"mine": "code:score"}


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"no rule politeness; the rules are tool_call_succeeded, "):
        RewardSettings(air_weights={"politeness": 1.0})
