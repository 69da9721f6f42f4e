"""Log-probabilities, entropies and their gradient, by hand and against torch's own functions."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden_learner.scores import scores


def composed(logits_nv: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torch."""
    logprobs_nv = torch.log_softmax(logits_nv, dim=-1)
    entropies_n = torch.special.entr(logprobs_nv.detach().exp()).sum(dim=-1)
    return logprobs_nv.gather(1, targets_n[:, None]).squeeze(1), entropies_n


def test_by_hand() -> None:
    """Odds 1 : 3 and a certainty."""
    logits_nv = torch.tensor([[0.0, math.log(3.0)], [50.0, -50.0]], requires_grad=True)
    logprobs_n, entropies_n = scores(logits_nv + 0, torch.tensor([1, 0]))
    assert logprobs_n.tolist() == pytest.approx([math.log(0.75), 0.0])
    assert entropies_n.tolist() == pytest.approx([0.25 * math.log(4) + 0.75 * math.log(4 / 3), 0.0], abs=1e-6)
    (logprobs_n * torch.tensor([2.0, 5.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert logits_nv.grad is not None
    assert logits_nv.grad.tolist() == [pytest.approx([-0.5, 0.5]), pytest.approx([0.0, 0.0], abs=1e-6)]
    assert not entropies_n.requires_grad


@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 7), (50, 33), (70, 8192), (3, 300_000)])
def test_as_torch_composes_them(rows: int, vocabulary: int) -> None:
    """Over one part of the logits or several."""
    generator = torch.Generator().manual_seed(rows)
    values_nv = 6 * torch.randn(rows, vocabulary, generator=generator) + 30
    targets_n = torch.randint(vocabulary, (rows,), generator=generator)
    weights_n = torch.randn(rows, generator=generator)
    results: list[Any] = []
    for function in (scores, composed):
        logits_nv = values_nv.clone().requires_grad_()
        logprobs_n, entropies_n = function(logits_nv * 1, targets_n)
        (logprobs_n * weights_n).sum().backward()  # type: ignore[no-untyped-call]
        results.append((logprobs_n.detach(), entropies_n, logits_nv.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_can_never_be_sampled_has_no_part() -> None:
    logits_nv = torch.tensor([[1.0, -math.inf, 1.0]], requires_grad=True)
    logprobs_n, entropies_n = scores(logits_nv + 0, torch.tensor([2]))
    assert (logprobs_n.item(), entropies_n.item()) == pytest.approx((-math.log(2), math.log(2)))
    logprobs_n.sum().backward()  # type: ignore[no-untyped-call]
    assert logits_nv.grad is not None
    assert logits_nv.grad.tolist() == [[-0.5, 0.0, 0.5]]


def test_what_is_not_finite_stays_so() -> None:
    """The health guards must see it."""
    logprobs_n, entropies_n = scores(torch.tensor([[math.nan, 1.0], [math.inf, 1.0]]), torch.tensor([1, 1]))
    assert not logprobs_n.isfinite().any()
    assert not entropies_n.isfinite().any()
