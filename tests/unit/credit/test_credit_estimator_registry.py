"""Estimators are found by file, chosen by name, and say what is wrong with their parameters."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from scored_rollouts import flat, outcomes

from leyden_credit import estimators
from leyden_credit.estimators import chosen, known
from leyden_credit.settings import CreditSettings

FILE = '''
"""Half of what came out."""
from collections.abc import Sequence
from leyden_credit.estimators.base import Advantages, Estimator, broadcast
from leyden_credit.rollout import ScoredRollout

class Halved(Estimator):
    factor: float = 0.5
    def __call__(self, group: Sequence[ScoredRollout]) -> Advantages:
        return broadcast([self.factor * rollout.final for rollout in group], group)
'''


def test_these_are_known() -> None:
    assert list(known()) == ["dr_grpo", "gdpo", "gigpo", "grpo", "rae", "return_to_go", "rloo"]


def test_adding_one_is_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halved.py").write_text(FILE)
    (tmp_path / "no_estimator.py").write_text("VALUE = 1")
    monkeypatch.setattr(estimators, "__path__", [*estimators.__path__, str(tmp_path)])
    assert set(known()) > {"halved", "grpo"}
    assert "no_estimator" not in known()
    halved = CreditSettings(estimators={"calculator": {"name": "halved", "factor": 0.25}})
    found = chosen(halved.estimators["calculator"])
    assert flat(found(outcomes(4.0, 8.0))) == [1.0, 2.0]
    assert found.label == "halved(factor=0.25)"


def test_a_label_names_what_differs_from_the_defaults() -> None:
    assert chosen("gigpo").label == chosen({"name": "gigpo", "w": 1.0}).label == "gigpo"
    assert chosen({"name": "gigpo", "w": 0.5, "gamma": 0.9}).label == "gigpo(gamma=0.9, w=0.5)"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="no estimator is named 'ppo'; choose one of dr_grpo, gdpo, gigpo, grpo,"
    ):
        chosen("ppo")
    with pytest.raises(ValueError, match="no estimator is named None"):
        chosen({"gamma": 0.5})
    for name in (["grpo"], {"name": "grpo"}, 5, True):
        with pytest.raises(ValueError, match=r"no estimator is named .*; choose one of dr_grpo"):
            chosen({"name": name})
    with pytest.raises(ValidationError, match=r"no estimator is named \['grpo'\]"):
        CreditSettings(estimator={"name": ["grpo"]})


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"name": "gigpo", "w": -1},
            "estimator gigpo: w = -1: .*greater than or equal to 0.*It takes gamma ",
        ),
        ({"name": "gigpo", "scale": "max"}, "scale = 'max': .*'none' or 'std'"),
        ({"name": "return_to_go", "gamma": 0}, "gamma = 0: .*greater than 0"),
        ({"name": "return_to_go", "gamma": 1.5}, "gamma = 1.5: .*less than or equal to 1"),
        ({"name": "return_to_go", "baseline": "turn"}, "baseline = 'turn': .*'same_turn' or 'rollout'"),
        ({"name": "grpo", "min_std": float("nan")}, "min_std = nan: .*finite"),
        ({"name": "grpo", "gamma": 0.5}, r"gamma = 0.5: Extra inputs.*It takes min_std \(smallest deviation"),
        ({"name": "gdpo", "weights": {"right": -2}}, "weights.right = -2: .*greater than or equal to 0"),
        ({"name": "rloo", "w": 1}, "w = 1: .*It takes no parameters"),
    ],
)
def test_parameters_are_checked(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(choice)
    with pytest.raises(ValidationError, match=message):
        CreditSettings(estimators={"calculator": choice})


def test_settings_take_a_name_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATOR", "rloo")
    assert chosen(CreditSettings().estimator).label == "rloo"
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATOR", '{"name": "gigpo", "gamma": 0.95}')
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATORS", '{"a": "rae", "b": {"name": "grpo", "min_std": 0.25}}')
    settings = CreditSettings()
    assert chosen(settings.estimator).label == "gigpo(gamma=0.95)"
    assert [chosen(choice).label for choice in settings.estimators.values()] == ["rae", "grpo(min_std=0.25)"]
