"""What the demo can show, and that every setting it gives is one that some service has."""

from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from leyden.cli.stack import DemoModel
from leyden_credit.settings import CreditSettings
from leyden_inference.settings import InferenceSettings
from leyden_learner.settings import LearnerSettings
from leyden_local.demo import scenarios
from leyden_local.demo.log import DemoFailed
from leyden_local.demo.options import RUN
from leyden_local.demo.scenarios import SCENARIOS, converted_smollm2, shipped_seed
from leyden_local.models import smollm2
from leyden_runner.settings import RunnerSettings

EXAMPLES = Path(__file__).parents[3] / "examples"
SERVICES: dict[str, type[BaseSettings]] = {
    "LEARNER": LearnerSettings,
    "INFERENCE": InferenceSettings,
    "RUNNER": RunnerSettings,
    "CREDIT": CreditSettings,
}


def test_the_command_line_offers_each() -> None:
    assert {model.value for model in DemoModel} == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_its_settings_exist(name: str) -> None:
    for setting in SCENARIOS[name].choose(examples=EXAMPLES).service_settings():
        leyden, service, *words = setting.split("_")
        assert leyden == "LEYDEN"
        assert "_".join(words).lower() in SERVICES[service].model_fields, setting


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_its_settings_are_valid_and_bf16_is_for_processors_that_have_it(
    fast: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "multiplies_bf16", lambda: fast)
    for name, value in SCENARIOS["smollm2"].choose(examples=EXAMPLES).service_settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEYDEN_LEARNER_POLICY", "reasoning")
    learner, inference = LearnerSettings(), InferenceSettings()
    assert (learner.lora_rank, learner.precision, inference.precision) == (16, precision, precision)


def test_what_is_given_counts_over_the_scenario_and_that_over_the_defaults() -> None:
    scenario = SCENARIOS["smollm2"]
    chosen = scenario.choose(
        examples=EXAMPLES, steps=3, heldout=None, settings={"LEYDEN_LEARNER_LORA_RANK": "4"}
    )
    assert (chosen.steps, chosen.heldout, chosen.staleness) == (3, 200, 1)
    settings = chosen.service_settings()
    assert settings["LEYDEN_LEARNER_LORA_RANK"] == "4"
    assert settings["LEYDEN_LEARNER_MAX_STEPS"] == "3"
    assert settings["LEYDEN_LEARNER_KEEP_WEIGHTS"] == "3"


def test_the_stack_trains_the_example(tmp_path: Path) -> None:
    scenario = SCENARIOS["seed"]
    options = scenario.choose(examples=EXAMPLES)
    model = scenario.model(EXAMPLES, lambda _text: None)
    config = scenario.stack(options, tmp_path, model)
    assert (config.policy, config.model, config.run) == ("calculator", EXAMPLES / "calculator" / "seed", RUN)
    assert config.agents == {"default": {"callable": "calculator.agent:solve"}}
    assert config.rewards == {"calculator": "calculator.reward:reward"}
    assert config.path == [EXAMPLES]
    assert config.settings == options.service_settings()


def test_tasks_are_the_examples_own_and_there_must_be_enough() -> None:
    scenario = SCENARIOS["seed"]
    tasks = scenario.tasks(scenario.choose(examples=EXAMPLES))
    assert len(list(tasks.generate(5, split="heldout", seed=0))) == 5
    with pytest.raises(DemoFailed, match="--heldout 5001: there are at most 5000"):
        scenario.tasks(scenario.choose(examples=EXAMPLES, heldout=5001))


def test_a_folder_without_the_example_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match=r"seed is missing: .* --examples"):
        shipped_seed("calculator")(tmp_path, lambda _text: None)


def test_missing_weights_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "NEEDED", ("no_such_package",))
    with pytest.raises(DemoFailed, match="--model smollm2 needs no_such_package"):
        converted_smollm2(EXAMPLES, lambda _text: None)
