"""Adapters: what trains, what is published, what the reference is; precision and memory beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.collate import collate, weigh
from leyden_learner.lora import NoSuchLayers, adapters, merged
from leyden_learner.model import load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.outcome import Trained
from leyden_learner.policy import load_policy
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import VOCABULARY, make_sample
from leyden_learner.trainer import Trainer
from leyden_learner.trainer_state import TrainerStateMissing

SAMPLES = [make_sample(index) for index in range(8)]
BATCH = collate(weigh(SAMPLES, rollout_mean))


def settings(**changes: Any) -> LearnerSettings:
    """Adapters of rank 4, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"policy": "tiny", "lr": 1e-2, "threads": 1, "device": "cpu", "lora_rank": 4}
    return LearnerSettings(**(defaults | changes))


def train(trainer: Trainer, steps: int = 1) -> dict[str, float]:
    """Measurements of the last of some steps."""
    for _ in range(steps):
        outcome = trainer.advance(SAMPLES, 0)
        assert isinstance(outcome, Trained)
    return outcome.metrics


def scores(model: Any) -> Tensor:
    """Log-probabilities of the samples' tokens."""
    with torch.no_grad():
        return token_logprobs(model, BATCH).logprobs_n


def test_new_adapters_change_nothing_and_are_all_that_trains(model_folder: Path) -> None:
    policy = load_policy(settings(), model_folder, model_folder)
    before = load_model(model_folder, torch.device("cpu"))
    assert torch.equal(scores(policy.model), scores(before))
    assert policy.trainable.keys() == adapters(policy.model).keys()
    # two layers of seven linear maps, two factors each
    assert len(policy.trainable) == 2 * 7 * 2
    assert {min(value.shape) for value in policy.trainable.values()} == {4}


def test_only_named_layers_get_adapters(model_folder: Path) -> None:
    policy = load_policy(settings(lora_targets=["q_proj"]), model_folder, model_folder)
    assert len(policy.trainable) == 2 * 2
    for targets in (["wheels"], ["q_proj", "wheels"]):
        with pytest.raises(NoSuchLayers, match=r"LORA_TARGETS.*wheels"):
            load_policy(settings(lora_targets=targets), model_folder, model_folder)


def test_merging_by_hand(model_folder: Path) -> None:
    """W + (alpha / rank) B A, alpha being twice the rank; everything else as it was."""
    trainer = Trainer.begin(settings(), model_folder, model_folder)
    train(trainer, 2)
    model = trainer._policy.model
    layer = model.model.layers[0].self_attn.q_proj
    a, b = (layer.get_parameter(f"lora_{factor}.default.weight") for factor in "AB")
    state = merged(model)
    assert torch.allclose(
        state["model.layers.0.self_attn.q_proj.weight"], layer.base_layer.weight + 2.0 * b @ a, atol=1e-7
    )
    assert state.keys() == load_model(model_folder, torch.device("cpu")).state_dict().keys()


def test_what_is_published_scores_like_what_was_trained(model_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer.begin(settings(), model_folder, model_folder)
    train(trainer, 3)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(3, model_folder, trainer.save)
    served = load_model(folder, torch.device("cpu"))
    assert torch.allclose(scores(served), scores(trainer._policy.model), atol=1e-5)
    assert not torch.allclose(
        scores(served), scores(load_model(model_folder, torch.device("cpu"))), atol=1e-2
    )


def test_the_reference_is_the_model_without_adapters(model_folder: Path) -> None:
    trainer = Trainer.begin(settings(kl_coefficient=0.1), model_folder, model_folder)
    train(trainer, 2)
    reference_n = trainer._policy.reference_logprobs(BATCH)
    assert reference_n is not None
    assert torch.equal(reference_n, scores(load_model(model_folder, torch.device("cpu"))))
    assert train(trainer)["kl_reference"] > 0


def test_training_goes_on_from_a_checkpoint_exactly(model_folder: Path, tmp_path: Path) -> None:
    chosen = settings(kl_coefficient=0.05, weight_decay=0.1)
    steady = Trainer.begin(chosen, model_folder, model_folder)
    train(steady, 2)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(2, model_folder, steady.save)
    resumed = Trainer.resume(chosen, folder, model_folder)
    assert train(steady, 2) | {"seconds": 0} == train(resumed, 2) | {"seconds": 0}
    for name, value in adapters(steady._policy.model).items():
        assert torch.equal(value, adapters(resumed._policy.model)[name]), name


@pytest.mark.parametrize(("made", "resumed"), [(4, 0), (0, 4), (4, 8)])
def test_other_adapters_than_the_checkpoints_are_refused(
    model_folder: Path, tmp_path: Path, made: int, resumed: int
) -> None:
    trainer = Trainer.begin(settings(lora_rank=made), model_folder, model_folder)
    train(trainer)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(1, model_folder, trainer.save)
    with pytest.raises(TrainerStateMissing, match=r"LORA_.* settings it was made with, or start a new run"):
        Trainer.resume(settings(lora_rank=resumed), folder, model_folder)


@pytest.mark.parametrize("rank", [0, 4])
def test_activations_computed_twice_give_the_same_step(model_folder: Path, rank: int) -> None:
    results = []
    for spared in (False, True):
        chosen = settings(lora_rank=rank, activation_checkpointing=spared)
        trainer = Trainer.begin(chosen, model_folder, model_folder)
        results.append(train(trainer, 2) | {"seconds": 0})
    assert results[0] == results[1]


def test_bf16_computes_about_the_same_and_keeps_fp32_weights(model_folder: Path) -> None:
    results = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer.begin(settings(lora_rank=0, precision=precision), model_folder, model_folder)
        results.append(train(trainer))
        assert all(value.dtype is torch.float32 for value in trainer._policy.trainable.values())
    assert results[0]["grad_norm"] == pytest.approx(results[1]["grad_norm"], rel=0.05)
    assert results[0]["grad_norm"] != results[1]["grad_norm"]


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern")
def test_bundles_of_experts_get_no_adapters_and_are_told_so_before_training(tmp_path: Path) -> None:
    """peft wraps them too; what comes out could not be merged, nor served."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        max_position_embeddings=64,
    )
    folder = tmp_path / "experts"
    MixtralForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    with pytest.raises(NoSuchLayers, match="experts in one tensor"):
        load_policy(settings(), folder, folder)
    trainer = Trainer.begin(settings(lora_targets=["q_proj", "v_proj"]), folder, folder)
    train(trainer)
    made = CheckpointStore(tmp_path, "tiny", "default").write(1, folder, trainer.save)
    assert torch.allclose(
        scores(load_model(made, torch.device("cpu"))), scores(trainer._policy.model), atol=1e-5
    )
