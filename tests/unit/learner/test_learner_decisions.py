"""The learning rate's course, the health verdict, settings that contradict themselves, and light imports."""

import subprocess
import sys
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from leyden_learner.health import CollapseLimits, CollapseWatch, HealthLimits, Unhealthy, verdict
from leyden_learner.recipes import RECIPES, Recipe
from leyden_learner.schedule import lr_factor
from leyden_learner.settings import LearnerSettings

NAN = float("nan")


@pytest.mark.parametrize(
    ("step", "schedule", "factor"),
    [
        (0, "constant", 0.25),
        (3, "constant", 1.0),
        (999, "constant", 1.0),
        (4, "linear", 1.0),
        (6, "linear", 0.75),
        (12, "linear", 0.0),
        (99, "linear", 0.0),
        (8, "cosine", 0.5),
        (12, "cosine", 0.0),
    ],
)
def test_learning_rate(step: int, schedule: Literal["constant", "linear", "cosine"], factor: float) -> None:
    got = lr_factor(step, warmup_steps=4, total_steps=12, schedule=schedule)
    assert got == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        ({}, None),
        ({"loss": NAN}, Unhealthy.NON_FINITE_LOSS),
        ({"grad_norm": float("inf")}, Unhealthy.NON_FINITE_GRADIENT),
        ({"ratio_max": 101.0}, Unhealthy.RATIO_EXPLOSION),
        ({"ratio_max": NAN}, Unhealthy.RATIO_EXPLOSION),
        ({"kl": 1.5}, Unhealthy.KL_EXPLOSION),
        ({"kl": NAN}, Unhealthy.KL_EXPLOSION),
    ],
)
def test_verdict(measured: dict[str, float], reason: Unhealthy | None) -> None:
    healthy = {"loss": -0.1, "grad_norm": 1.0, "ratio_max": 2.0, "kl": 0.01}
    assert verdict(**(healthy | measured), limits=HealthLimits(max_kl=1.0, max_ratio=100.0)) is reason


def pauses(limits: CollapseLimits, entropies: list[float], rewards: list[float]) -> list[Unhealthy | None]:
    """What the watch says after each step."""
    watch = CollapseWatch(limits)
    return [watch.see(entropy=e, reward=r) for e, r in zip(entropies, rewards, strict=True)]


def test_entropy_that_is_gone_pauses_training() -> None:
    limits = CollapseLimits(min_entropy=0.1, max_reward_drop=0, window=2)
    # Means of two: 0.3, 0.15, 0.075
    assert pauses(limits, [0.4, 0.2, 0.1, 0.05], [0.0] * 4) == [None, None, None, Unhealthy.ENTROPY_COLLAPSE]


def test_reward_that_is_lost_pauses_training() -> None:
    limits = CollapseLimits(min_entropy=0, max_reward_drop=0.5, window=2)
    # Means of two: 0.2, 0.6, 1.0, 0.7, 0.5; of 0.8 gained since the first, more than 0.4 must not be lost
    rewards = [0.2, 0.2, 1.0, 1.0, 0.4, 0.6]
    assert pauses(limits, [1.0] * 6, rewards) == [None] * 5 + [Unhealthy.REWARD_COLLAPSE]


def test_reward_that_is_back_on_the_floor_it_began_from_is_lost() -> None:
    """It cannot fall further, so all that was gained has to be enough."""
    limits = CollapseLimits(min_entropy=0, max_reward_drop=1.0, window=2)
    rewards = [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert pauses(limits, [1.0] * 6, rewards) == [None] * 5 + [Unhealthy.REWARD_COLLAPSE]


@pytest.mark.parametrize(
    "rewards", [[0.5] * 6, [0.9, 0.7, 0.5, 0.3, 0.1, 0.0], [-3.0, -3.0, 9.0, 9.0, 9.0, 9.0]]
)
def test_without_a_gain_that_was_lost_training_goes_on(rewards: list[float]) -> None:
    assert pauses(CollapseLimits(0, 0.5, 2), [0.0] * 6, rewards) == [None] * 6


def test_guards_are_off_by_default() -> None:
    settings = LearnerSettings(policy="tiny")
    limits = CollapseLimits(settings.min_entropy, settings.max_reward_drop, 1)
    assert pauses(limits, [0.0, 0.0], [1.0, -1.0]) == [None, None]


def test_an_objective_is_a_set_of_defaults() -> None:
    assert LearnerSettings(policy="tiny").recipe == RECIPES["grpo"]
    assert LearnerSettings(policy="tiny", objective="dapo").recipe.aggregation == "token"
    mixed = LearnerSettings(policy="tiny", objective="gspo", aggregation="token", clip_high=1e-3)
    assert mixed.recipe == Recipe("gspo", "token", 3e-4, 1e-3, float("inf"))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"min_rollouts": 9, "batch_rollouts": 8}, "min_rollouts 9 exceeds batch_rollouts 8"),
        ({"batch_rollouts": 2000}, "none would ever be full; raise it"),
        ({"batch_groups": 2000}, "below what a step needs, 2000"),
        ({"batch_groups": 8, "batch_rollouts": 64}, "both say what fills a step; unset one of them"),
        ({"queue_weights": {"gpu": 0}}, "queue_weights.gpu"),
        ({"lr_schedule": "cosine"}, "needs total_steps"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"objective": "dr_grpo"}, "needs fixed_length"),
        ({"objective": "reinforce"}, "objective"),
        (
            {"importance": "masked", "importance_cap": 2.0, "importance_low": 2.0},
            "importance_low 2.0 is not below",
        ),
        ({"importance": "masked"}, "with importance_cap 0 nothing is corrected"),
        ({"importance_cap": 2.0, "importance_low": 0.5}, "importance_low 0.5 is of"),
        ({"lora_targets": ["q_proj"]}, "set LEYDEN_LEARNER_LORA_RANK"),
        ({"lora_alpha": 8}, "set LEYDEN_LEARNER_LORA_RANK"),
        ({"queue_weights": {"gpu": float("inf")}}, "queue_weights.gpu"),
        ({"policy": "../up"}, "policy"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        LearnerSettings(**({"policy": "tiny"} | values))


def test_rollouts_fill_a_step_unless_something_else_is_said_to() -> None:
    def limits(**values: Any) -> tuple[int, int, int]:
        rule = LearnerSettings(policy="tiny", **values).batch_rule
        return rule.rollouts, rule.groups, rule.tokens

    assert limits() == (96, 0, 0)
    assert limits(batch_groups=8) == (0, 8, 0)
    assert limits(batch_tokens=5000) == (0, 0, 5000)
    assert limits(batch_tokens=5000, batch_rollouts=96) == (96, 0, 5000)
    assert limits(batch_groups=8, batch_tokens=5000) == (0, 8, 5000)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_LEARNER_POLICY", "calculator")
    monkeypatch.setenv("LEYDEN_LEARNER_BETAS", "[0.8, 0.9]")
    monkeypatch.setenv("LEYDEN_LEARNER_ALIASES", '["latest"]')
    monkeypatch.setenv("LEYDEN_KAFKA_BOOTSTRAP", "broker:9092")
    monkeypatch.setenv("LEYDEN_LEARNER_BATCH_GROUPS", "4")
    monkeypatch.setenv("LEYDEN_LEARNER_QUEUE_WEIGHTS", '{"gpu": 2}')
    settings = LearnerSettings()
    assert settings.batch_rule.weight("gpu") == 2
    assert (settings.batch_rule.rollouts, settings.batch_rule.groups) == (0, 4)
    assert (settings.policy, settings.betas, settings.aliases) == ("calculator", (0.8, 0.9), ["latest"])
    assert settings.kafka.bootstrap == "broker:9092"


def test_composing_a_learner_does_not_import_torch() -> None:
    code = "import sys, leyden_learner.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_learner_of_a_replay_stays_aside_unless_told_otherwise() -> None:
    aside = LearnerSettings(policy="p", replay="week")
    assert (aside.run, aside.aliases, aside.samples_topic) == ("week", ["week"], "leyden.samples.v1.week")
    assert aside.max_staleness > 10**6
    told = LearnerSettings(policy="p", replay="week", aliases=["serving"], max_staleness=9)
    assert (told.aliases, told.max_staleness) == (["serving"], 9)
    live = LearnerSettings(policy="p")
    assert (live.run, live.samples_topic) == ("default", "leyden.samples.v1")


def test_a_replays_samples_are_of_its_own_run() -> None:
    with pytest.raises(ValidationError, match="are of run 'week'"):
        LearnerSettings(policy="p", replay="week", run="default")
