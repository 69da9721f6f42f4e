"""Steps of training on a small model: what they change, what they must not depend on, and saving them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.collate import collate, weigh
from leyden_learner.health import HealthLimits, NonFiniteWeights, Unhealthy
from leyden_learner.model import load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.outcome import Ruined, Skipped, Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_row, make_sample, make_span
from leyden_learner.trainer import Trainer
from leyden_learner.trainer_state import TrainerStateMissing
from leyden_schemas import TrainingSample

SAMPLES = [make_sample(index) for index in range(8)]


def make_trainer(folder: Path, **changes: Any) -> Trainer:
    """A fresh trainer with a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"policy": "tiny", "lr": 1e-2, "threads": 1, "device": "cpu"}
    return Trainer.begin(LearnerSettings(**(defaults | changes)), folder, folder)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of the parameters."""
    return {name: value.detach().clone() for name, value in trainer._policy.model.named_parameters()}


def trained(trainer: Trainer, samples: list[TrainingSample], version: int = 0) -> dict[str, float]:
    """Measurements of a step that must succeed."""
    outcome = trainer.advance(samples, version)
    assert isinstance(outcome, Trained)
    return outcome.metrics


def equal(one: dict[str, Tensor], other: dict[str, Tensor], *, atol: float = 0.0) -> bool:
    """Whether two sets of weights agree."""
    return all(torch.allclose(one[name], other[name], rtol=0, atol=atol) for name in one)


def logprob(trainer: Trainer, sample: TrainingSample) -> float:
    """Summed log-probability of a sample's tokens."""
    batch = collate(weigh([sample], rollout_mean))
    with torch.no_grad():
        return token_logprobs(trainer._policy.model, batch).logprobs_n.sum().item()


def test_a_step_makes_the_good_likelier_and_the_bad_rarer(model_folder: Path) -> None:
    trainer = make_trainer(model_folder)
    before = [logprob(trainer, sample) for sample in SAMPLES[:2]]
    trained(trainer, SAMPLES[:2])
    after = [logprob(trainer, sample) for sample in SAMPLES[:2]]
    assert after[0] < before[0]
    assert after[1] > before[1]
    assert trainer.step == 1


@pytest.mark.parametrize("changes", [{}, {"kl_coefficient": 0.1}, {"epochs": 2, "importance_cap": 2.0}])
def test_accumulating_over_micro_batches_equals_one_batch(
    model_folder: Path, changes: dict[str, Any]
) -> None:
    results = []
    for tokens in (10_000, 24, 1):
        # Plain steps: Adam's division would blow rounding up to the size of a step.
        trainer: Any = make_trainer(model_folder, micro_batch_tokens=tokens, **changes)
        trainer._optimizer = torch.optim.SGD(trainer._policy.model.parameters(), lr=0.1)
        results.append((trained(trainer, SAMPLES), weights(trainer)))
    for metrics, after in results[1:]:
        assert equal(after, results[0][1], atol=1e-6)
        for name in ("loss", "grad_norm", "kl_sampler", "kl_reference", "entropy", "ratio_max"):
            assert metrics[name] == pytest.approx(results[0][0][name], abs=1e-5)


def test_every_pass_measures_against_the_start_of_the_step(model_folder: Path) -> None:
    """Decoupled, the third pass' ratios are to the trainer before the first, not before the second."""
    batch, cap = collate(weigh(SAMPLES, rollout_mean)), 0.5

    def after(passes: int) -> tuple[Tensor, dict[str, float]]:
        wide = {"clip_low": 0.99, "clip_high": 99.0, "importance_cap": cap}
        trainer: Any = make_trainer(model_folder, epochs=passes or 1, **wide)
        trainer._optimizer = torch.optim.SGD(trainer._policy.model.parameters(), lr=0.1)
        measured = trained(trainer, SAMPLES) if passes else {}
        with torch.no_grad():
            return token_logprobs(trainer._policy.model, batch).logprobs_n, measured

    def loss(policy_n: Tensor, anchor_n: Tensor) -> float:
        importance_n = (anchor_n - batch.sampler_logprobs_n).exp().clamp(max=cap)
        gained_n = importance_n * (policy_n - anchor_n).exp() * batch.advantages_n
        return -(batch.weights_n * gained_n).sum().item()

    (start, _), (first, _), (second, _) = after(0), after(1), after(2)
    assert after(3)[1]["loss"] == pytest.approx(loss(second, start), abs=1e-6)
    for mistaken in (first, second):
        assert abs(loss(second, mistaken) - loss(second, start)) > 1e-4


def test_packed_rows_train_like_padded_ones(model_folder: Path) -> None:
    results = []
    for packing in (True, False):
        trainer: Any = make_trainer(model_folder, packing=packing, micro_batch_tokens=40, kl_coefficient=0.1)
        trainer._optimizer = torch.optim.SGD(trainer._policy.model.parameters(), lr=0.1)
        results.append((trained(trainer, SAMPLES), weights(trainer)))
    assert equal(results[0][1], results[1][1], atol=1e-6)
    for name in ("loss", "grad_norm", "kl_sampler", "entropy", "ratio_max", "clip_fraction"):
        assert results[0][0][name] == pytest.approx(results[1][0][name], abs=1e-5)
    assert results[0][0]["input_tokens"] < results[1][0]["input_tokens"]


def test_a_fragmented_rollout_does_not_shrink_the_step(model_folder: Path) -> None:
    """The same tokens with the same contexts, in one row or in three, move the weights the same way."""
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    spans = [make_span(1, [-3.4]), make_span(3, [-3.4, -3.4]), make_span(6, [-3.4, -3.4])]
    whole = make_sample(0, make_row(ids, *spans))
    parts = make_sample(0, *(make_row(ids[: span.stop], span) for span in spans))
    results = []
    for sample in (whole, parts):
        trainer = make_trainer(model_folder)
        metrics = trained(trainer, [sample, make_sample(1)])
        results.append((metrics["grad_norm"], metrics["loss"]))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_measurements(model_folder: Path) -> None:
    metrics = trained(make_trainer(model_folder), SAMPLES, version=2)
    assert metrics["rollouts"] == 8
    assert metrics["sampled_tokens"] == 24
    assert metrics["reward_mean"] == 0.5
    assert metrics["reward_std"] == 0.5
    assert metrics["advantage_mean"] == 0.0
    assert metrics["advantage_std"] == 1.0
    assert metrics["staleness_mean"] == 2.0
    assert metrics["kl_reference"] == 0.0
    assert metrics["importance_weight"] == 1.0
    assert 0 < metrics["entropy"] <= math.log(32) + 1e-6
    assert metrics["lr"] == 1e-2


def test_warm_up_is_applied(model_folder: Path) -> None:
    trainer = make_trainer(model_folder, warmup_steps=4)
    assert [trained(trainer, SAMPLES)["lr"] for _ in range(5)] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01]
    )


def test_without_a_kl_term_no_reference_is_looked_for(model_folder: Path, tmp_path: Path) -> None:
    settings = LearnerSettings(policy="tiny", lr=1e-2, threads=1, device="cpu")
    trainer = Trainer.begin(settings, model_folder, tmp_path / "nowhere")
    assert trainer._policy.reference_logprobs(collate(weigh(SAMPLES, rollout_mean))) is None
    assert trained(trainer, SAMPLES)["kl_reference"] == 0.0


def test_the_reference_holds_the_policy_back(model_folder: Path) -> None:
    drift = []
    for coefficient in (1e-9, 10.0):
        trainer = make_trainer(model_folder, kl_coefficient=coefficient, max_kl=1e6)
        drift.append([trained(trainer, SAMPLES)["kl_reference"] for _ in range(12)][-1])
    assert drift[1] < drift[0] / 2


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_ratio": 1.0001}, Unhealthy.RATIO_EXPLOSION), ({"max_kl": 1e-9}, Unhealthy.KL_EXPLOSION)],
)
def test_an_unhealthy_step_leaves_everything_as_it_was(
    model_folder: Path, limits: dict[str, float], reason: Unhealthy, epochs: int
) -> None:
    trainer = make_trainer(model_folder, epochs=epochs, **limits)
    before, state = weights(trainer), trainer._state()
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is reason
    assert equal(weights(trainer), before)
    assert trainer._state().keys() == state.keys()
    assert trainer.step == 0


def test_a_later_pass_that_fails_takes_the_earlier_ones_back(model_folder: Path) -> None:
    trainer = make_trainer(model_folder, lr=0.05, epochs=4, max_kl=1e6)
    trained(trainer, SAMPLES[:5])  # so that the optimizer has a past to go back to
    batch = collate(weigh(SAMPLES, rollout_mean))
    with torch.no_grad():
        moved_n = token_logprobs(trainer._policy.model, batch).logprobs_n - batch.sampler_logprobs_n
    trainer._limits = HealthLimits(max_kl=0.5 * moved_n.square().mean().item() * 1.01, max_ratio=1e6)
    before, state = weights(trainer), {name: value.clone() for name, value in trainer._state().items()}
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, Skipped)
    assert equal(weights(trainer), before)
    assert trainer._state().keys() == state.keys()
    assert equal(trainer._state(), state)


@pytest.mark.parametrize(("epochs", "outcome_type"), [(1, Ruined), (2, Skipped)])
def test_weights_that_overflow_in_the_optimizer_are_noticed(
    model_folder: Path, epochs: int, outcome_type: type
) -> None:
    """Loss and gradient are finite; only the weights that come out are not."""
    trainer = make_trainer(model_folder, lr=1e39, epochs=epochs)
    before = weights(trainer)
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, outcome_type)
    assert not isinstance(outcome, Trained)
    assert outcome.reason is Unhealthy.NON_FINITE_WEIGHTS
    assert math.isfinite(outcome.metrics["loss"])
    assert math.isfinite(outcome.metrics["grad_norm"])
    assert trainer.step == 0
    assert equal(weights(trainer), before) is (outcome_type is Skipped)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_forward_pass_that_overflows_is_skipped(model_folder: Path, precision: str) -> None:
    trainer = make_trainer(model_folder, precision=precision)
    with torch.no_grad():
        trainer._policy.model.model.norm.weight.fill_(3e38)
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is Unhealthy.NON_FINITE_LOSS


def test_non_finite_advantage_sums_are_skipped(model_folder: Path) -> None:
    trainer = make_trainer(model_folder)
    huge = make_sample(0, make_row([1, 2, 3], make_span(1, [-3.4], advantage=1e39)))
    outcome = trainer.advance([huge], 0)
    assert isinstance(outcome, Skipped)
    assert outcome.reason in (Unhealthy.NON_FINITE_LOSS, Unhealthy.NON_FINITE_GRADIENT)


def test_training_goes_on_from_a_checkpoint_exactly(model_folder: Path, tmp_path: Path) -> None:
    settings = LearnerSettings(
        policy="tiny", lr=1e-2, threads=1, device="cpu", kl_coefficient=0.05, warmup_steps=3, weight_decay=0.1
    )
    steady = Trainer.begin(settings, model_folder, model_folder)
    store = CheckpointStore(tmp_path, "tiny", "default")
    for _ in range(2):
        trained(steady, SAMPLES)
    folder = store.write(2, model_folder, steady.save)
    resumed = Trainer.resume(settings, folder, model_folder)
    assert resumed.step == 2
    for _ in range(2):
        trained(steady, SAMPLES[:5])
        trained(resumed, SAMPLES[:5])
    assert equal(weights(steady), weights(resumed))


def test_a_checkpoint_is_a_complete_artifact_with_the_same_weights(
    model_folder: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(model_folder)
    trained(trainer, SAMPLES)
    folder = CheckpointStore(tmp_path, "tiny", "default").write(1, model_folder, trainer.save)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (model_folder / name).read_bytes()
    loaded = load_model(folder, torch.device("cpu"))
    for (name, one), (_, other) in zip(
        trainer._policy.model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_non_finite_weights_are_never_saved(model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(model_folder)
    with torch.no_grad():
        next(trainer._policy.model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteWeights, match="step 0"):
        trainer.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes", [{"lr": 1e18}, {"lr": 1e20, "lora_rank": 2}, {"lr": 1e18, "ema_decay": 0.5}]
)
def test_finite_weights_that_answer_nothing_finite_are_never_saved(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Every weight is a number; multiplied with one another they are none any more."""
    trainer = make_trainer(model_folder, **changes)
    trained(trainer, SAMPLES)
    assert all(bool(value.isfinite().all()) for value in weights(trainer).values())
    store = CheckpointStore(tmp_path, "tiny", "default")
    with pytest.raises(NonFiniteWeights, match="what they answer"):
        store.write(1, model_folder, trainer.save)
    assert store.names() == []
    assert store.remove_unfinished() == []


def test_a_checkpoint_without_trainer_state_cannot_be_resumed(model_folder: Path) -> None:
    settings = LearnerSettings(policy="tiny", device="cpu", threads=1)
    with pytest.raises(TrainerStateMissing, match=r"state\.safetensors is missing"):
        Trainer.resume(settings, model_folder, model_folder)
