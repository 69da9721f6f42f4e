"""Adapters published alone: as peft lays them out, the same model as merged; and which cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from leyden_learner.adapter_folder import name_base
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.collate import collate, weigh
from leyden_learner.lora import NoSuchLayers, adapters
from leyden_learner.lora_files import OtherAdapters
from leyden_learner.model import load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.outcome import Trained
from leyden_learner.policy import load_policy
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_sample
from leyden_learner.trainer import Trainer
from leyden_platform.artifacts import verify_artifact
from leyden_platform.probe import read_probe
from leyden_schemas import WeightsKind

SAMPLES = [make_sample(index) for index in range(8)]
BATCH = collate(weigh(SAMPLES, rollout_mean))
CPU = torch.device("cpu")
WRITTEN = {"adapter_config.json", "adapter_model.safetensors", "probe.json", "trainer/state.safetensors"}


def settings(**changes: Any) -> LearnerSettings:
    """Adapters of rank 4, published alone, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"lr": 1e-2, "threads": 1, "device": "cpu", "lora_rank": 4}
    return LearnerSettings(policy="tiny", **({"publish": "adapter", **defaults} | changes))


def trained(chosen: LearnerSettings, base: Path, folder: Path) -> Path:
    """The checkpoint of a first step."""
    trainer = Trainer.begin(chosen, base, base)
    assert isinstance(trainer.advance(SAMPLES, 0), Trained)
    described_by = base if chosen.published_kind is WeightsKind.FULL else None
    return CheckpointStore(folder, "tiny", "default").write(1, described_by, trainer.save)


def scores(model: Any) -> Tensor:
    """Log-probabilities of the samples' tokens."""
    with torch.no_grad():
        return token_logprobs(model, BATCH).logprobs_n


@pytest.mark.parametrize("changes", [{}, {"lora_targets": ["q_proj", "down_proj"]}, {"ema_decay": 0.5}])
def test_an_adapter_is_what_peft_reads_and_the_same_model_as_merged(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    alone = trained(settings(**changes), model_folder, tmp_path / "alone")
    merged = trained(settings(publish="merged", **changes), model_folder, tmp_path / "merged")
    assert {str(file.relative_to(alone)) for file in alone.rglob("*") if file.is_file()} == WRITTEN
    assert verify_artifact(alone, WeightsKind.LORA)
    base: Any = load_model(model_folder, CPU)
    read: Any = PeftModel.from_pretrained(base, str(alone)).merge_and_unload()
    assert torch.allclose(scores(read), scores(load_model(merged, CPU)), atol=1e-6)
    said, merged_says = read_probe(alone), read_probe(merged)
    assert said is not None
    assert said == merged_says


def test_the_configuration_says_what_was_trained_and_where_its_base_lies(
    model_folder: Path, tmp_path: Path
) -> None:
    """Sorted, whereas peft keeps a set: the same step has the same digest in every process."""
    folder = trained(settings(lora_rank=3, lora_alpha=7.5), model_folder, tmp_path)
    name_base(folder, "file:///models/first")
    config = json.loads((folder / "adapter_config.json").read_text())
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == ("LORA", "CAUSAL_LM", True)
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 7.5, layers)
    assert config["base_model_name_or_path"] == "/models/first"
    name_base(folder, "s3://bucket/first")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "s3://bucket/first"
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in names
    assert len(names) == 2 * len(layers) * 2


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"ema_decay": 0.5, "ema_published": False}])
@pytest.mark.parametrize("publish", ["merged", "adapter"])
def test_training_goes_on_exactly_and_may_publish_the_other_way(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any], publish: str
) -> None:
    chosen = settings(kl_coefficient=0.05, weight_decay=0.1, **changes)
    steady = Trainer.begin(chosen, model_folder, model_folder)
    steady.advance(SAMPLES, 0)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(1, None, steady.save)
    resumed = Trainer.resume(chosen.model_copy(update={"publish": publish}), folder, model_folder)
    for trainer in (steady, resumed):
        assert isinstance(trainer.advance(SAMPLES, 1), Trained)
    for name, value in adapters(steady._policy.model).items():
        assert torch.equal(value, adapters(resumed._policy.model)[name]), name


def test_a_run_can_begin_with_the_adapter_of_another(model_folder: Path, tmp_path: Path) -> None:
    """It scores as that one did, and the reference is what both lie over."""
    folder = trained(settings(), model_folder, tmp_path)
    policy = load_policy(settings(kl_coefficient=0.1), folder, model_folder)
    merged: Any = PeftModel.from_pretrained(load_model(model_folder, CPU), str(folder)).merge_and_unload()
    assert torch.allclose(scores(policy.model), scores(merged), atol=1e-6)
    reference_n = policy.reference_logprobs(BATCH)
    assert reference_n is not None
    assert torch.equal(reference_n, scores(load_model(model_folder, CPU)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"lora_rank": 0, "publish": "merged"},
            r"all weights train: set LEYDEN_LEARNER_LORA_RANK=4, _ALPHA=8",
        ),
        ({"lora_rank": 8}, r"do not make: set LEYDEN_LEARNER_LORA_RANK=4"),
        ({"lora_alpha": 2.0}, r"do not make: .*_ALPHA=8"),
        ({"lora_targets": ["q_proj"]}, r"do not make: .*_TARGETS=\[\"down_proj\""),
    ],
)
def test_adapters_that_the_settings_do_not_make_are_refused_with_those_that_do(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = trained(settings(), model_folder, tmp_path)
    with pytest.raises(OtherAdapters, match=words):
        load_policy(settings(**changes), folder, model_folder)


@pytest.mark.parametrize("publish", ["merged", "adapter"])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_half_of_a_tied_pair_gets_no_adapters(model_folder: Path, publish: str, target: str) -> None:
    with pytest.raises(NoSuchLayers, match=r"LORA_TARGETS=.* one tensor, .* leave both out"):
        load_policy(settings(publish=publish, lora_targets=["q_proj", target]), model_folder, model_folder)


def test_adapters_that_no_engine_serves_are_not_published_alone(untied_folder: Path) -> None:
    chosen = {"lora_targets": ["q_proj", "embed_tokens"]}
    with pytest.raises(NoSuchLayers, match=r"embed_tokens.* is not of a linear layer.*PUBLISH=merged"):
        load_policy(settings(**chosen), untied_folder, untied_folder)
    assert load_policy(settings(publish="merged", **chosen), untied_folder, untied_folder)


@pytest.fixture
def untied_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model whose head is a tensor of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_folder)
    config.tie_word_embeddings = False
    auto: Any = AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"
