"""The objective against verl's own losses on the same batch, in an environment of its own: make test-verl."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig, PolicyLossConfig

from leyden_learner.objective import Evidence, ObjectiveConfig, objective
from leyden_learner.objective.aggregation import aggregation
from leyden_learner.objective.kl import ESTIMATORS

ROWS, WIDTH = 6, 11
LENGTH = 16
VERL_LOSSES = {"ppo_clip": "vanilla", "gspo": "gspo", "cispo": "cispo"}
VERL_MODES = {
    "token": "token-mean",
    "sequence": "seq-mean-token-mean",
    "rollout": "seq-mean-token-mean",
    "fixed_length": "seq-mean-token-sum-norm",
}


class Batch(NamedTuple):
    """Rows of one completion each, as verl has them: padded, with a mask of what was sampled."""

    policy_bt: Tensor
    anchor_bt: Tensor
    reference_bt: Tensor
    advantages_bt: Tensor
    mask_bt: Tensor

    def flat(self, values_bt: Tensor) -> Tensor:
        """What was sampled, in our order."""
        return values_bt[self.mask_bt]


@pytest.fixture(params=range(5))
def batch(request: pytest.FixtureRequest) -> Batch:
    """Random log-probabilities that are near each other, some far; advantages of both signs, and 0."""
    generator = torch.Generator().manual_seed(request.param)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    anchor_bt = -normal(ROWS, WIDTH).abs() - 0.1
    lengths = torch.randint(1, WIDTH + 1, (ROWS, 1), generator=generator)
    advantages_bt = normal(ROWS, 1).expand(ROWS, WIDTH).clone()
    advantages_bt[0] = 0.0
    return Batch(
        policy_bt=(anchor_bt + 0.4 * normal(ROWS, WIDTH)).requires_grad_(),
        anchor_bt=anchor_bt,
        reference_bt=anchor_bt + 0.3 * normal(ROWS, WIDTH),
        advantages_bt=advantages_bt,
        mask_bt=torch.arange(WIDTH) < lengths,
    )


def ours(batch: Batch, how: str, **config: Any) -> Tensor:
    """Loss of the batch with the reference's KL, every row being a rollout."""
    lengths = batch.mask_bt.sum(1).tolist()
    weights = [of_rows[0] for of_rows in aggregation(how, length=LENGTH)([[count] for count in lengths])]
    row_bt = torch.arange(ROWS)[:, None].expand(ROWS, WIDTH)
    evidence = Evidence(
        logprobs_n=batch.flat(batch.policy_bt),
        sampler_logprobs_n=batch.flat(batch.anchor_bt),
        advantages_n=batch.flat(batch.advantages_bt),
        weights_n=torch.tensor(weights, dtype=torch.float64)[batch.flat(row_bt)],
        sequence_n=batch.flat(row_bt),
        reference_logprobs_n=batch.flat(batch.reference_bt),
    )
    return objective(evidence, ObjectiveConfig(importance_cap=0.0, **config)).loss


def verls(batch: Batch, how: str, *, loss: str, kl: str, kl_coefficient: float, **clip: float) -> Tensor:
    """The same by verl."""
    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=clip["clip_low"],
        clip_ratio_high=clip["clip_high"],
        clip_ratio_c=clip["dual_clip"],
        policy_loss=PolicyLossConfig(loss_mode=VERL_LOSSES[loss]),
    )
    scale = {"loss_scale_factor": LENGTH} if how == "fixed_length" else {}
    config.global_batch_info.update(scale)
    mask_bt = batch.mask_bt.double()
    policy, _ = core_algos.get_policy_loss_fn(VERL_LOSSES[loss])(
        old_log_prob=batch.anchor_bt,
        log_prob=batch.policy_bt,
        advantages=batch.advantages_bt,
        response_mask=mask_bt,
        loss_agg_mode=VERL_MODES[how],
        config=config,
    )
    kld = core_algos.kl_penalty(batch.policy_bt, batch.reference_bt, kl)
    total: Tensor = policy + kl_coefficient * core_algos.agg_loss(kld, mask_bt, VERL_MODES[how], **scale)
    return total


def gradient(batch: Batch, loss: Tensor) -> Tensor:
    """By every log-probability."""
    (found,) = torch.autograd.grad(loss, batch.policy_bt)
    return found


@pytest.mark.parametrize("how", VERL_MODES)
@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize(
    ("loss", "clip"),
    [
        ("ppo_clip", {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}),
        ("ppo_clip", {"clip_low": 0.1, "clip_high": 0.1, "dual_clip": 1.2}),
        ("gspo", {"clip_low": 3e-4, "clip_high": 4e-4, "dual_clip": math.inf}),
        ("gspo", {"clip_low": 0.1, "clip_high": 0.2, "dual_clip": math.inf}),
        ("cispo", {"clip_low": 1.0, "clip_high": 0.28, "dual_clip": math.inf}),
    ],
)
def test_loss_and_gradient_agree(batch: Batch, how: str, kl: str, loss: str, clip: dict[str, float]) -> None:
    config: dict[str, Any] = {"loss": loss, "kl": kl, "kl_coefficient": 0.05, **clip}
    mine, theirs = ours(batch, how, **config), verls(batch, how, **config)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-9)
    assert torch.allclose(gradient(batch, mine), gradient(batch, theirs), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_estimates_agree(batch: Batch, name: str) -> None:
    theirs = core_algos.kl_penalty_forward(batch.policy_bt, batch.reference_bt, name)
    assert torch.allclose(ESTIMATORS[name](batch.policy_bt, batch.reference_bt), theirs)
