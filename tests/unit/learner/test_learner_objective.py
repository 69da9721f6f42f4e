"""The objective's formulas, against values worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden_learner.objective import Evidence, ObjectiveConfig, objective
from leyden_learner.objective.aggregation import rollout_mean, token_mean
from leyden_learner.objective.importance import ratio, truncated_weights
from leyden_learner.objective.kl import k2, k3
from leyden_learner.objective.ppo_clip import ClippedLoss, ppo_clip

PLAIN = ObjectiveConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0, importance_cap=0.0, kl_coefficient=0.0)


def clip(ratios: list[float], advantages: list[float]) -> ClippedLoss:
    """With the usual bounds."""
    return ppo_clip(
        torch.tensor(ratios), torch.tensor(advantages), clip_low=0.2, clip_high=0.28, dual_clip=3.0
    )


@pytest.mark.parametrize(
    ("r", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.2, 1.0, -1.2, False),
        (1.5, 1.0, -1.28, True),  # a rise beyond the upper bound earns nothing more
        (0.5, 1.0, -0.5, False),  # a fall of something good is always corrected
        (0.9, -1.0, 0.9, False),
        (0.5, -1.0, 0.8, True),  # a fall of something bad beyond the lower bound earns nothing more
        (2.0, -1.0, 2.0, False),
        (10.0, -1.0, 3.0, True),  # dual clip
        (10.0, -0.5, 1.5, True),
        (7.0, 0.0, 0.0, False),
    ],
)
def test_clipped_loss(r: float, advantage: float, loss: float, clipped: bool) -> None:
    result = clip([r], [advantage])
    assert result.loss_n.item() == pytest.approx(loss)
    assert result.clipped_n.item() is clipped


def test_clipped_tokens_carry_no_gradient() -> None:
    ratio_n = torch.tensor([1.5, 1.1, 0.5, 0.9, 10.0], requires_grad=True)
    advantages_n = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])
    loss_n, clipped_n = ppo_clip(ratio_n, advantages_n, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    loss_n.sum().backward()  # type: ignore[no-untyped-call]
    assert ratio_n.grad is not None
    assert ratio_n.grad.tolist() == [0.0, -1.0, 0.0, 1.0, 0.0]
    assert clipped_n.tolist() == [True, False, True, False, True]


def test_k3_by_hand() -> None:
    # d = log 0.5 - log 0.25 = log 2: 2 - log 2 - 1
    policy, reference = torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)])
    assert k3(policy, reference).item() == pytest.approx(1 - math.log(2))
    assert k3(policy, policy).item() == 0.0


@given(st.floats(-15, 0), st.floats(-15, 0))
def test_k3_is_never_negative(policy: float, reference: float) -> None:
    assert k3(torch.tensor(policy).double(), torch.tensor(reference).double()).item() >= 0.0


def test_k2_by_hand() -> None:
    assert k2(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == pytest.approx(2.0)


def test_ratio_is_bounded_and_importance_is_capped_and_detached() -> None:
    assert ratio(torch.tensor(0.0), torch.tensor(-1000.0)).item() == pytest.approx(math.exp(20), rel=1e-5)
    trainer = torch.tensor([math.log(0.9), math.log(0.1)], requires_grad=True)
    weights = truncated_weights(trainer, torch.tensor([math.log(0.3), math.log(0.2)]), cap=2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.5])
    assert not weights.requires_grad


def test_every_rollout_counts_the_same_however_it_is_cut() -> None:
    # Rollout 1 has 2 sampled tokens, rollout 2 has 6: each adds up to a half.
    assert rollout_mean([2, 6]) == [1 / 4, 1 / 12]
    assert token_mean([2, 6]) == [1 / 8, 1 / 8]


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=200))
def test_weights_add_up_to_one(tokens: list[int]) -> None:
    for weigh in (rollout_mean, token_mean):
        assert sum(w * n for w, n in zip(weigh(tokens), tokens, strict=True)) == pytest.approx(1.0)


def evidence(logprobs_n: torch.Tensor, **changes: torch.Tensor) -> Evidence:
    """Two tokens of one rollout, sampled at probability 0.5 with advantages 1 and -1."""
    values = {
        "sampler_logprobs_n": torch.tensor([0.5, 0.5]).log(),
        "advantages_n": torch.tensor([1.0, -1.0]),
        "weights_n": torch.tensor([0.5, 0.5]),
    }
    return Evidence(logprobs_n=logprobs_n, **(values | changes))


def test_on_policy_gradient_is_the_weighted_advantage() -> None:
    logprobs_n = torch.tensor([0.5, 0.5]).log().requires_grad_()
    terms = objective(evidence(logprobs_n), PLAIN)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert terms.loss.item() == pytest.approx(0.0)
    assert logprobs_n.grad is not None
    assert logprobs_n.grad.tolist() == pytest.approx([-0.5, 0.5])
    assert terms.kl_sampler_n.tolist() == [0.0, 0.0]


def test_kl_to_the_reference_is_weighed_like_the_loss() -> None:
    config = ObjectiveConfig(
        clip_low=0.2, clip_high=0.28, dual_clip=3.0, importance_cap=0.0, kl_coefficient=0.1
    )
    logprobs_n, reference_n = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.5, 0.25]).log()
    terms = objective(evidence(logprobs_n, reference_logprobs_n=reference_n), config)
    # k3 of the second token: d = log 0.5, 0.5 + log 2 - 1
    assert terms.loss.item() == pytest.approx(0.1 * 0.5 * (math.log(2) - 0.5), abs=1e-7)


def test_importance_correction_clips_against_the_trainer_and_weighs_by_the_sampler() -> None:
    config = ObjectiveConfig(
        clip_low=0.2, clip_high=0.28, dual_clip=3.0, importance_cap=1.5, kl_coefficient=0.0
    )
    logprobs_n = torch.tensor([0.9, 0.25]).log().requires_grad_()
    terms = objective(evidence(logprobs_n), config)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    # ratios to the sampler 1.8 and 0.5; the ratio to the trainer itself is 1, so nothing is clipped
    assert terms.importance_n.tolist() == pytest.approx([1.5, 0.5])
    assert not terms.clipped_n.any()
    assert terms.loss.item() == pytest.approx(0.5 * (-1.5 + 0.5))
    assert logprobs_n.grad is not None
    assert logprobs_n.grad.tolist() == pytest.approx([-0.75, 0.25])
    assert terms.ratio_n.tolist() == pytest.approx([1.8, 0.5])
