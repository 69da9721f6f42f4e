"""The two backends on the same samples: the same steps, and checkpoints that either goes on with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.health import NonFiniteWeights, Unhealthy
from leyden_learner.lora import NoSuchLayers
from leyden_learner.lora_files import OtherAdapters
from leyden_learner.model import UnsupportedModel
from leyden_learner.outcome import Skipped, Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_row, make_sample, make_span, write_model
from leyden_learner.trainer import Trainer
from leyden_learner.trainer_state import TrainerStateMissing, whole
from leyden_learner.verl_backend.trainer import VerlTrainer
from leyden_platform.probe import read_probe

TOLERANCE = 1e-5
TORCH_ALONE = {"clip_low_fraction", "clip_high_fraction"}
"""verl tells what share of a batch is clipped, and not which tokens."""
"""Of weights after plain steps of 0.1; what differs is the order in which verl and we add up."""

AGENT = make_sample(
    20,
    make_row(
        [3, 1, 4, 1, 5, 9, 2, 6, 5, 3],
        make_span(1, [-3.4], advantage=2.0),
        make_span(4, [-3.0, -3.2], advantage=-0.5, version=1),
        make_span(7, [-3.4, -4.3], advantage=0.0),
    ),
    make_row([3, 1, 4, 9, 9], make_span(3, [-3.1, -3.6], advantage=0.7)),
)
"""Two rows, one of three turns: advantages, versions and masks of its own for each."""

SAMPLES = [*(make_sample(index) for index in range(6)), AGENT]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete artifact with random weights. Not to be written to."""
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("model") / "first")


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that others are held to."""
    return write_model(tmp_path_factory.mktemp("model") / "other", seed=1)


def settings(**changes: Any) -> LearnerSettings:
    """Several passes a step, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"policy": "tiny", "lr": 1e-2, "threads": 1, "device": "cpu"}
    return LearnerSettings(**({"micro_batch_tokens": 30, **defaults} | changes))


def plain(trainer: Any) -> Any:
    """With steps of the gradient itself: Adam's division would blow rounding up to the size of a step."""
    if isinstance(trainer, VerlTrainer):
        trainer._engine.optimizer = torch.optim.SGD(trainer._engine.module.parameters(), lr=0.1)
    else:
        trainer._optimizer = torch.optim.SGD(trainer._parameters.values(), lr=0.1)
    return trainer


def weights(trainer: Any) -> dict[str, Tensor]:
    """A copy of what is trained."""
    return {name: whole(value.detach()).clone() for name, value in trainer._parameters.items()}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def trained(trainer: Any, *, version: int = 2) -> dict[str, float]:
    """Measurements of a step that must succeed."""
    outcome = trainer.advance(SAMPLES, version)
    assert isinstance(outcome, Trained)
    return outcome.metrics


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"packing": False},
        {"micro_batch_tokens": 1},
        {"kl_coefficient": 0.1},
        {"kl_coefficient": 0.1, "kl": "k1", "aggregation": "sequence"},
        {"kl_coefficient": 0.1, "kl": "k2", "aggregation": "token"},
        {"importance_cap": 1.05, "epochs": 3},
        {"importance_cap": 1.2, "importance": "masked", "importance_low": 0.9},
        {"objective": "dapo", "clip_low": 0.01, "clip_high": 0.01, "dual_clip": 1.02},
        {"objective": "dr_grpo", "fixed_length": 16},
        {"objective": "gspo"},
        {"objective": "gspo", "kl_coefficient": 0.1, "importance_cap": 2.0, "epochs": 2},
        {"objective": "cispo", "epochs": 2, "grad_clip": 0.01},
        {"activation_checkpointing": True},
        {"lr_schedule": "linear", "warmup_steps": 3, "total_steps": 9, "weight_decay": 0.1},
    ],
)
def test_a_step_is_the_same_on_both(model_folder: Path, other_folder: Path, changes: dict[str, Any]) -> None:
    """Loss, gradient, every measurement but the time, and the weights after it."""
    chosen = settings(**changes)
    mine = plain(Trainer.begin(chosen, model_folder, other_folder))
    verls = plain(VerlTrainer.begin(chosen, model_folder, other_folder))
    measured, theirs = trained(mine), trained(verls)
    assert measured.keys() - TORCH_ALONE == theirs.keys()
    for name in theirs.keys() - {"seconds"}:
        assert theirs[name] == pytest.approx(measured[name], rel=1e-4, abs=1e-5), name
    assert furthest(weights(mine), weights(verls)) < TOLERANCE


def test_adapters_are_trained_the_same(model_folder: Path, tmp_path: Path) -> None:
    """From the adapters that one of them made, with those switched off as the reference."""
    chosen = settings(lora_rank=4, kl_coefficient=0.1, epochs=2)
    first = save(Trainer.begin(chosen, model_folder, model_folder), tmp_path, model_folder)
    mine = plain(Trainer.resume(chosen, first, model_folder))
    verls = plain(VerlTrainer.resume(chosen, first, model_folder))
    measured, theirs = trained(mine), trained(verls)
    for name in theirs.keys() - {"seconds"}:
        assert theirs[name] == pytest.approx(measured[name], rel=1e-4, abs=1e-5), name
    assert furthest(weights(mine), weights(verls)) < TOLERANCE
    assert theirs["kl_reference"] > 0


def test_a_run_begins_with_the_adapter_of_another_or_says_what_it_needs(
    model_folder: Path, tmp_path: Path
) -> None:
    chosen = settings(lora_rank=4, publish="adapter")
    first = Trainer.begin(chosen, model_folder, model_folder)
    trained(first)
    folder = save(first, tmp_path, model_folder)
    assert furthest(weights(first), weights(VerlTrainer.begin(chosen, folder, model_folder))) == 0
    with pytest.raises(OtherAdapters, match="LEYDEN_LEARNER_LORA_RANK=4"):
        VerlTrainer.begin(settings(), folder, model_folder)


def test_bf16_is_near(model_folder: Path) -> None:
    """The two round in other places."""
    chosen = settings(precision="bf16")
    mine = trained(Trainer.begin(chosen, model_folder, model_folder))
    theirs = trained(VerlTrainer.begin(chosen, model_folder, model_folder))
    exact = trained(VerlTrainer.begin(settings(), model_folder, model_folder))
    for name in ("loss", "grad_norm", "entropy", "kl_sampler"):
        assert theirs[name] == pytest.approx(mine[name], abs=0.01)
    assert theirs["loss"] != exact["loss"]


def save(trainer: Any, folder: Path, base: Path) -> Path:
    """A checkpoint as the service writes them."""
    return CheckpointStore(folder, "tiny", "default").write(trainer.step, base, trainer.save)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"lora_rank": 4, "publish": "adapter"}])
def test_checkpoints_have_one_layout(model_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """The same files with the same tensors in them, whichever backend wrote them."""
    folders = []
    for backend in (Trainer, VerlTrainer):
        trainer = backend.begin(settings(**changes), model_folder, model_folder)
        trained(trainer)
        folders.append(save(trainer, tmp_path / backend.__name__, model_folder))
    one, other = folders
    assert files(one) == files(other)
    published = "adapter_model" if "publish" in changes else "model"
    for name in (f"{published}.safetensors", "trainer/state.safetensors"):
        mine, theirs = load_file(one / name), load_file(other / name)
        assert {key: (value.shape, value.dtype) for key, value in mine.items()} == {
            key: (value.shape, value.dtype) for key, value in theirs.items()
        }
    mine_says, theirs_says = read_probe(one), read_probe(other)
    assert mine_says is not None
    assert theirs_says is not None
    assert theirs_says.logprobs == pytest.approx(mine_says.logprobs, abs=1e-4)
    assert (other / "config.json").read_bytes() == (model_folder / "config.json").read_bytes()


def files(folder: Path) -> set[str]:
    """Paths within a checkpoint."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora_rank": 4, "kl_coefficient": 0.05}, {"lora_rank": 4, "publish": "adapter"}],
)
@pytest.mark.parametrize("begun", [Trainer, VerlTrainer])
@pytest.mark.parametrize("goes_on", [Trainer, VerlTrainer])
def test_a_run_goes_on_from_either_backends_checkpoint(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any], begun: Any, goes_on: Any
) -> None:
    """Bit for bit on the same backend; within Adam's share of rounding on the other."""
    chosen = settings(warmup_steps=3, weight_decay=0.1, **changes)
    steady = begun.begin(chosen, model_folder, model_folder)
    for _ in range(2):
        trained(steady)
    resumed = goes_on.resume(chosen, save(steady, tmp_path, model_folder), model_folder)
    assert resumed.step == 2
    for _ in range(2):
        assert trained(resumed)["lr"] == trained(steady)["lr"]
    far = furthest(weights(steady), weights(resumed))
    assert far == 0 if begun is goes_on else far < 2e-4


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_ratio": 1.0001}, Unhealthy.RATIO_EXPLOSION), ({"max_kl": 1e-9}, Unhealthy.KL_EXPLOSION)],
)
def test_an_unhealthy_step_leaves_everything_as_it_was(
    model_folder: Path, limits: dict[str, float], reason: Unhealthy, epochs: int
) -> None:
    trainer = VerlTrainer.begin(settings(epochs=epochs, **limits), model_folder, model_folder)
    before, state = weights(trainer), trainer._state()
    outcome = trainer.advance(SAMPLES, 2)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is reason
    assert furthest(weights(trainer), before) == 0
    assert trainer._state().keys() == state.keys()
    assert trainer.step == 0


def test_a_later_pass_that_fails_takes_the_earlier_ones_back(model_folder: Path) -> None:
    single = trained(VerlTrainer.begin(settings(lr=0.05), model_folder, model_folder))["kl_sampler"]
    chosen = settings(lr=0.05, epochs=4, max_kl=single * 1.01)
    trainer = VerlTrainer.begin(chosen, model_folder, model_folder)
    before = weights(trainer)
    assert isinstance(trainer.advance(SAMPLES, 2), Skipped)
    assert furthest(weights(trainer), before) == 0


@pytest.mark.parametrize(
    ("advantage", "reason"), [(1e39, Unhealthy.NON_FINITE_LOSS), (1e30, Unhealthy.NON_FINITE_GRADIENT)]
)
def test_what_is_not_finite_is_not_applied(model_folder: Path, advantage: float, reason: Unhealthy) -> None:
    """The second loss is finite and the squares of its gradient are not: verl itself does not step."""
    trainer = VerlTrainer.begin(settings(), model_folder, model_folder)
    before = weights(trainer)
    huge = make_sample(0, make_row([1, 2, 3], make_span(1, [-3.4], advantage=advantage)))
    outcome = trainer.advance([huge], 2)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is reason
    assert furthest(weights(trainer), before) == 0
    assert trainer._state().keys() == {"rng:cpu"}


def test_finite_weights_that_answer_nothing_finite_are_never_saved(
    model_folder: Path, tmp_path: Path
) -> None:
    trainer = VerlTrainer.begin(settings(lr=1e18), model_folder, model_folder)
    trained(trainer)
    store = CheckpointStore(tmp_path, "tiny", "default")
    with pytest.raises(NonFiniteWeights, match="what they answer"):
        store.write(1, model_folder, trainer.save)
    assert store.names() == store.remove_unfinished() == []


def test_what_cannot_be_loaded_is_said(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="verl cannot load a causal LM from"):
        VerlTrainer.begin(settings(), tmp_path, tmp_path)
    with pytest.raises(NoSuchLayers, match="LORA_TARGETS"):
        VerlTrainer.begin(settings(lora_rank=4, lora_targets=["nowhere"]), model_folder, model_folder)
    with pytest.raises(NoSuchLayers, match="no layer is named nowhere"):
        VerlTrainer.begin(
            settings(lora_rank=4, lora_targets=["q_proj", "nowhere"]), model_folder, model_folder
        )
    with pytest.raises(NoSuchLayers, match="leave both out"):
        VerlTrainer.begin(settings(lora_rank=4, lora_targets=["lm_head"]), model_folder, model_folder)
    with pytest.raises(TrainerStateMissing, match=r"state\.safetensors is missing"):
        VerlTrainer.resume(settings(), model_folder, model_folder)
