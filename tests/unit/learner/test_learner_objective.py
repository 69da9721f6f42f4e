"""The objective's formulas, against values worked out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leyden_learner.objective import LOSSES, Evidence, ObjectiveConfig, objective
from leyden_learner.objective.aggregation import (
    Aggregation,
    fixed_length,
    rollout_mean,
    sequence_mean,
    token_mean,
)
from leyden_learner.objective.base import Bounds, PolicyLoss, Tokens
from leyden_learner.objective.cispo import cispo
from leyden_learner.objective.gspo import gspo
from leyden_learner.objective.importance import masked, ratio, truncated
from leyden_learner.objective.kl import k1, k2, k3
from leyden_learner.objective.ppo_clip import clipped, ppo_clip

USUAL = Bounds(low=0.2, high=0.28, dual=3.0)
PLAIN = ObjectiveConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0, importance_cap=0.0, kl_coefficient=0.0)


def clip(ratios: list[float], advantages: list[float]) -> PolicyLoss:
    """With the usual bounds."""
    return clipped(torch.tensor(ratios), torch.tensor(advantages), USUAL)


def tokens(policy: list[float], anchor: list[float], advantages: list[float], sequence: list[int]) -> Tokens:
    """Tokens of given probabilities; those of the policy take gradients."""
    return Tokens(
        torch.tensor(policy).log().requires_grad_(),
        torch.tensor(anchor).log(),
        torch.tensor(advantages),
        torch.tensor(sequence),
    )


def gradient(given: Tokens, loss: PolicyLoss) -> list[float]:
    """Of the summed loss, by the policy's log-probabilities."""
    loss.loss_n.sum().backward()  # type: ignore[no-untyped-call]
    assert given.logprobs_n.grad is not None
    return given.logprobs_n.grad.tolist()


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
    loss_n, clipped_n, _ = clipped(ratio_n, advantages_n, USUAL)
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
    rounding = 1e-14
    assert k3(torch.tensor(policy).double(), torch.tensor(reference).double()).item() >= -rounding


def test_k1_and_k2_by_hand() -> None:
    assert k1(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == pytest.approx(2.0)
    assert k2(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == pytest.approx(2.0)
    assert k1(torch.tensor([-3.0]), torch.tensor([-1.0])).item() == pytest.approx(-2.0)
    assert k2(torch.tensor([-4.0]), torch.tensor([-1.0])).item() == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("estimate", "slope"),
    [(k1, 1.0), (k2, math.log(0.2 / 0.5)), (k3, 1 - 0.5 / 0.2)],
)
def test_what_each_estimate_pulls_by_hand(estimate: Callable[[Tensor, Tensor], Tensor], slope: float) -> None:
    """By log policy, of 0.2 where the reference has 0.5: k1 pushes down all the same, k2 and k3 up to it."""
    logprobs_n, reference_n = torch.tensor([0.2]).log().requires_grad_(), torch.tensor([0.5]).log()
    estimate(logprobs_n, reference_n).sum().backward()  # type: ignore[no-untyped-call]
    assert logprobs_n.grad is not None
    assert logprobs_n.grad.tolist() == pytest.approx([slope])


def test_k1_and_k3_average_to_the_kl() -> None:
    """Two outcomes with policy (0.8, 0.2) and reference (0.5, 0.5): KL = 0.8 log 1.6 + 0.2 log 0.4."""
    policy, reference = torch.tensor([0.8, 0.2]).double(), torch.tensor([0.5, 0.5]).double()
    kl = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    for estimate in (k1, k3):
        assert (policy * estimate(policy.log(), reference.log())).sum().item() == pytest.approx(kl)


def test_ratio_is_bounded() -> None:
    assert ratio(torch.tensor(0.0), torch.tensor(-1000.0)).item() == pytest.approx(math.exp(20), rel=1e-5)


def test_importance_is_truncated_or_masked() -> None:
    ratio_n = torch.tensor([3.0, 0.5, 0.1, 2.0])
    assert truncated(ratio_n, low=0.2, cap=2.0).tolist() == pytest.approx([2.0, 0.5, 0.1, 2.0])
    assert masked(ratio_n, low=0.2, cap=2.0).tolist() == pytest.approx([0.0, 0.5, 0.0, 2.0])


def test_gspo_by_hand() -> None:
    """Completion 0 has ratios 2 and 1/2: mean log ratio 0, s = 1. Completion 1 has 1.5 alone."""
    given = tokens([0.8, 0.2, 0.6], [0.4, 0.4, 0.4], [1.0, 1.0, 1.0], [0, 0, 1])
    loss = gspo(given, USUAL)
    assert loss.loss_n.tolist() == pytest.approx([-1.0, -1.0, -1.28])
    assert loss.clipped_n.tolist() == [False, False, True]
    assert gradient(given, loss) == pytest.approx([-1.0, -1.0, 0.0])


def test_gspo_keeps_the_advantages_of_tokens() -> None:
    """s = sqrt(1.1 * 1.1) = 1.1; each token's gradient is -s times its own advantage."""
    given = tokens([0.44, 0.44], [0.4, 0.4], [2.0, -1.0], [0, 0])
    loss = gspo(given, USUAL)
    assert loss.loss_n.tolist() == pytest.approx([-2.2, 1.1], rel=1e-5)
    assert gradient(given, loss) == pytest.approx([-2.2, 1.1], rel=1e-5)


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-2, 2)), min_size=1, max_size=8))
def test_gspo_with_one_token_a_completion_is_ppo(drawn: list[tuple[float, float, float]]) -> None:
    policy_n, anchor_n, advantages_n = torch.tensor(drawn).double().T
    given = Tokens(policy_n, anchor_n, advantages_n, torch.arange(len(drawn)))
    assert torch.allclose(gspo(given, USUAL).loss_n, ppo_clip(given, USUAL).loss_n)


def test_cispo_by_hand() -> None:
    """Ratios 2 and 0.5, bounds [0, 1.28]: weights 1.28 and 0.5; a clipped token keeps its gradient."""
    given = tokens([0.8, 0.2], [0.4, 0.4], [1.0, -2.0], [0, 0])
    loss = cispo(given, Bounds(low=1.0, high=0.28, dual=math.inf))
    assert loss.loss_n.tolist() == pytest.approx([-1.28 * math.log(0.8), 0.5 * 2 * math.log(0.2)])
    assert loss.clipped_n.tolist() == [True, False]
    assert gradient(given, loss) == pytest.approx([-1.28, 1.0])


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_every_loss_has_the_policy_gradient(name: str) -> None:
    given = tokens([0.4, 0.2, 0.1], [0.4, 0.2, 0.1], [1.0, -2.0, 0.0], [0, 0, 1])
    loss = LOSSES[name](given, Bounds(0.2, 0.28, math.inf))
    assert gradient(given, loss) == pytest.approx([-1.0, 2.0, 0.0])
    assert not loss.clipped_n.any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_tokens_of_any_ratio_have_a_finite_loss_and_gradient(name: str, kl: str, cap: float) -> None:
    """As far apart as log-probabilities go that are admitted, in both directions and for praise and blame."""
    logprobs_n = torch.tensor([-100.0, 0.0, -100.0, 0.0]).requires_grad_()
    given = Evidence(
        logprobs_n,
        sampler_logprobs_n=torch.tensor([0.0, -100.0, 0.0, -100.0]),
        advantages_n=torch.tensor([1e9, 1e9, -1e9, -1e9]),
        weights_n=torch.full((4,), 0.25),
        sequence_n=torch.tensor([0, 1, 2, 3]),
        anchor_logprobs_n=torch.tensor([0.0, -100.0, 0.0, -100.0]),
        reference_logprobs_n=torch.tensor([0.0, -100.0, 0.0, -100.0]),
    )
    config = replace(PLAIN, loss=name, kl=kl, kl_coefficient=0.1, importance_cap=cap)
    terms = objective(given, config)
    terms.loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(terms.loss.item())
    assert logprobs_n.grad is not None
    assert logprobs_n.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_no_token_and_no_advantage_are_no_loss(name: str) -> None:
    assert LOSSES[name](tokens([], [], [], []), USUAL).loss_n.shape == (0,)
    given = tokens([1e-30, 1.0], [1.0, 1e-30], [0.0, 0.0], [0, 1])
    loss = LOSSES[name](given, Bounds(0.2, 0.28, math.inf))
    assert loss.loss_n.tolist() == [0.0, 0.0]
    assert gradient(given, loss) == [0.0, 0.0]


def test_weights_by_hand() -> None:
    """Rollout 1 has one row of 2 sampled tokens, rollout 2 has rows of 2 and 4."""
    rows = [[2], [2, 4]]
    assert rollout_mean(rows) == [[1 / 4], [1 / 12, 1 / 12]]
    assert token_mean(rows) == [[1 / 8], [1 / 8, 1 / 8]]
    assert sequence_mean(rows) == [[1 / 6], [1 / 6, 1 / 12]]
    assert fixed_length(10)(rows) == [[1 / 20], [1 / 20, 1 / 20]]


@given(st.lists(st.lists(st.integers(1, 10_000), min_size=1, max_size=9), min_size=1, max_size=40))
def test_weights_add_up_to_one(rows: list[list[int]]) -> None:
    for weigh in (rollout_mean, token_mean, sequence_mean):
        assert _total(weigh, rows) == pytest.approx(1.0)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_only_counting_rows_lets_fragments_count(rows: list[list[int]]) -> None:
    """However a rollout is cut, its tokens weigh the same; counting rows, the mistake, changes that."""
    whole = [[sum(of_rollout)] for of_rollout in rows]
    for weigh in (rollout_mean, token_mean, fixed_length(100)):
        for cut, uncut in zip(weigh(rows), weigh(whole), strict=True):
            assert cut == [uncut[0]] * len(cut)
    assert sequence_mean([[4], [2, 2]]) != sequence_mean([[4], [4]])


def test_what_sampled_nothing_weighs_nothing() -> None:
    rows = [[4], [3, 0], [0], []]
    assert rollout_mean(rows) == [[1 / 8], [1 / 6, 1 / 6], [0.0], []]
    assert token_mean(rows) == [[1 / 7], [1 / 7, 1 / 7], [1 / 7], []]
    assert sequence_mean(rows) == [[1 / 8], [1 / 6, 0.0], [0.0], []]
    for weigh in (rollout_mean, token_mean, sequence_mean):
        assert weigh([[0], [0, 0]]) == [[0.0], [0.0, 0.0]]
        assert weigh([]) == []


def _total(weigh: Aggregation, rows: list[list[int]]) -> float:
    return sum(
        weight * count
        for weights, counts in zip(weigh(rows), rows, strict=True)
        for weight, count in zip(weights, counts, strict=True)
    )


def evidence(logprobs_n: Tensor, **changes: Tensor) -> Evidence:
    """Two tokens of one rollout, sampled at probability 0.5 with advantages 1 and -1."""
    values = {
        "sampler_logprobs_n": torch.tensor([0.5, 0.5]).log(),
        "advantages_n": torch.tensor([1.0, -1.0]),
        "weights_n": torch.tensor([0.5, 0.5]),
        "sequence_n": torch.tensor([0, 0]),
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
    config = replace(PLAIN, kl_coefficient=0.1)
    logprobs_n, reference_n = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.5, 0.25]).log()
    terms = objective(evidence(logprobs_n, reference_logprobs_n=reference_n), config)
    # k3 of the second token: d = log 0.5, 0.5 + log 2 - 1
    assert terms.loss.item() == pytest.approx(0.1 * 0.5 * (math.log(2) - 0.5), abs=1e-7)


def test_importance_correction_clips_against_the_trainer_and_weighs_by_the_sampler() -> None:
    config = replace(PLAIN, importance_cap=1.5)
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


def test_masked_importance_leaves_out_what_the_two_disagree_on() -> None:
    config = replace(PLAIN, importance="masked", importance_low=0.6, importance_cap=1.5)
    logprobs_n = torch.tensor([0.6, 0.25]).log().requires_grad_()
    terms = objective(evidence(logprobs_n), config)
    # ratios to the sampler 1.2, which counts, and 0.5, which does not
    assert terms.importance_n.tolist() == pytest.approx([1.2, 0.0])
    assert terms.loss.item() == pytest.approx(0.5 * -1.2)


def test_the_anchor_is_the_trainer_at_the_start_of_the_step() -> None:
    """Decoupled: policy / anchor = 1.5 is clipped to 1.28, anchor / sampler = 1.2 weighs it."""
    logprobs_n, anchor_n = torch.tensor([0.9, 0.5]).log(), torch.tensor([0.6, 0.5]).log()
    terms = objective(evidence(logprobs_n, anchor_logprobs_n=anchor_n), replace(PLAIN, importance_cap=2.0))
    assert terms.importance_n.tolist() == pytest.approx([1.2, 1.0])
    assert terms.loss.item() == pytest.approx(0.5 * (-1.2 * 1.28 + 1.0))
    assert terms.clipped_n.tolist() == [True, False]


def test_the_bounded_ratio_is_what_the_bounds_are_of() -> None:
    """Decoupled it is to the anchor, 0.9 / 0.6, not to the sampler, 0.9 / 0.95; of GSPO the whole."""
    logprobs_n, anchor_n = torch.tensor([0.9, 0.5]).log(), torch.tensor([0.6, 0.5]).log()
    sampler_n = torch.tensor([0.95, 0.5]).log()
    given = evidence(logprobs_n, anchor_logprobs_n=anchor_n, sampler_logprobs_n=sampler_n)
    decoupled = objective(given, replace(PLAIN, importance_cap=2.0))
    assert decoupled.bounded_n is not None
    assert decoupled.bounded_n.tolist() == pytest.approx([1.5, 1.0])
    assert decoupled.ratio_n.tolist() == pytest.approx([0.9 / 0.95, 1.0])
    sequence = objective(given, replace(PLAIN, loss="gspo"))
    assert sequence.bounded_n is not None
    assert sequence.bounded_n.tolist() == pytest.approx([math.sqrt(0.9 / 0.95)] * 2)


def test_the_kl_estimator_is_chosen() -> None:
    logprobs_n, reference_n = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.5, 0.25]).log()
    for name, value in (("k1", math.log(2)), ("k2", 0.5 * math.log(2) ** 2), ("k3", math.log(2) - 0.5)):
        terms = objective(
            evidence(logprobs_n, reference_logprobs_n=reference_n),
            replace(PLAIN, kl_coefficient=0.1, kl=name),
        )
        assert terms.kl_reference_n.tolist() == pytest.approx([0.0, value], abs=1e-6)
