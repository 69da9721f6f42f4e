"""The moving average of the weights: by hand, what of it is published, and that training goes on exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.ema import MovingAverage
from leyden_learner.health import Unhealthy
from leyden_learner.lora import adapters
from leyden_learner.model import load_model
from leyden_learner.outcome import Skipped, Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_sample
from leyden_learner.trainer import Trainer

SAMPLES = [make_sample(index) for index in range(8)]
DECAY = 0.75


def settings(**changes: Any) -> LearnerSettings:
    """With an average, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"lr": 1e-2, "threads": 1, "device": "cpu", "ema_decay": DECAY}
    return LearnerSettings(policy="tiny", **(defaults | changes))


def train(trainer: Trainer, steps: int = 1) -> None:
    """Steps that must succeed."""
    for _ in range(steps):
        assert isinstance(trainer.advance(SAMPLES, 0), Trained)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of what is trained."""
    return {name: value.detach().clone() for name, value in trainer._policy.trainable.items()}


def test_the_average_by_hand() -> None:
    """1, then weights of 2 and 4 at 0.75: 0.75 + 0.25 * 2 = 1.25, and 0.75 * 1.25 + 0.25 * 4 = 1.9375."""
    weight = torch.tensor([1.0])
    average = MovingAverage({"w": weight}, 0.75)
    assert average.values["w"].item() == 1.0
    for now, expected in ((2.0, 1.25), (4.0, 1.9375)):
        weight.fill_(now)
        average.follow()
        assert average.values["w"].item() == expected
    with average.in_place_of_weights():
        assert (weight.item(), average.values["w"].item()) == (1.9375, 4.0)
    assert (weight.item(), average.values["w"].item()) == (4.0, 1.9375)


def test_the_weights_come_back_when_writing_them_fails() -> None:
    weight = torch.tensor([1.0])
    average = MovingAverage({"w": weight}, 0.5)
    weight.fill_(3.0)
    average.follow()
    with pytest.raises(OSError, match="full"), average.in_place_of_weights():
        raise OSError("full")
    assert (weight.item(), average.values["w"].item()) == (3.0, 2.0)


def test_training_is_the_same_with_an_average(model_folder: Path) -> None:
    """It follows; it does not lead."""
    with_average = Trainer.begin(settings(), model_folder, model_folder)
    without = Trainer.begin(settings(ema_decay=0.0), model_folder, model_folder)
    train(with_average, 2)
    train(without, 2)
    assert all(torch.equal(weights(without)[name], value) for name, value in weights(with_average).items())


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("published", [True, False])
def test_what_is_published_and_what_goes_on(
    model_folder: Path, tmp_path: Path, published: bool, lora_rank: int
) -> None:
    """Two steps: what is published is 0.75 (0.75 w0 + 0.25 w1) + 0.25 w2, or w2; training goes on from w2."""
    chosen = settings(ema_published=published, lora_rank=lora_rank)
    steady = Trainer.begin(chosen, model_folder, model_folder)
    w = [weights(steady)]
    for _ in range(2):
        train(steady)
        w.append(weights(steady))
    average = {name: 0.75 * (0.75 * w[0][name] + 0.25 * w[1][name]) + 0.25 * w[2][name] for name in w[0]}
    folder = CheckpointStore(tmp_path, "tiny", "default").write(2, model_folder, steady.save)
    assert all(torch.equal(weights(steady)[name], value) for name, value in w[2].items())
    if not lora_rank:
        served = dict(load_model(folder, torch.device("cpu")).named_parameters())
        expected = average if published else w[2]
        assert all(torch.allclose(served[name], value, atol=1e-7) for name, value in expected.items())
    resumed = Trainer.resume(chosen, folder, model_folder)
    train(steady, 2)
    train(resumed, 2)
    for name, value in weights(steady).items():
        assert torch.equal(weights(resumed)[name], value), name
        assert torch.equal(resumed._averages[name], steady._averages[name]), name


def test_averaged_adapters_are_merged_into_what_is_published(model_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer.begin(settings(lora_rank=4), model_folder, model_folder)
    train(trainer, 2)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(2, model_folder, trainer.save)
    layer = trainer._policy.model.model.layers[0].self_attn.q_proj
    a, b = (
        trainer._averages[f"model.layers.0.self_attn.q_proj.lora_{factor}.default.weight"] for factor in "AB"
    )
    served = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(served, layer.base_layer.weight + 2.0 * b @ a, atol=1e-7)
    assert adapters(trainer._policy.model).keys() == trainer._averages.keys()


def test_an_average_can_be_begun_and_given_up_in_mid_run(model_folder: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "tiny", "default")
    plain = Trainer.begin(settings(ema_decay=0.0), model_folder, model_folder)
    train(plain)
    begun = Trainer.resume(settings(), store.write(1, model_folder, plain.save), model_folder)
    assert all(torch.equal(begun._averages[name], value) for name, value in weights(plain).items())
    train(begun)
    given_up = Trainer.resume(settings(ema_decay=0.0), store.write(2, model_folder, begun.save), model_folder)
    assert all(torch.equal(weights(given_up)[name], value) for name, value in weights(begun).items())


def test_a_skipped_step_leaves_the_average_alone(model_folder: Path) -> None:
    trainer = Trainer.begin(settings(max_ratio=1.0001, epochs=2), model_folder, model_folder)
    before = {name: value.clone() for name, value in trainer._averages.items()}
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is Unhealthy.RATIO_EXPLOSION
    assert all(torch.equal(trainer._averages[name], value) for name, value in before.items())
