"""Log-probabilities and entropies from logits, in as little memory and as few passes over it as there can be.

Composed of torch's own functions, the logits would be held four times over: their softmax, its logarithm, its
product with itself, and the gradient. Here they are held once, and become their own gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PART_ELEMENTS = 2**18
"""Logits looked at together, so that what is computed from them stays in a CPU's cache."""

_NEVER = -1e4
"""Its exponential is 0."""


def scores(logits_nv: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and the entropy of each row in nats, which carries no gradient.

    In fp32. Takes the logits over: going backward overwrites them, so it can be done once and nothing else
    may read them.
    """
    logprobs_n, entropies_n = _Scores.apply(logits_nv, targets_n)  # type: ignore[no-untyped-call]
    return logprobs_n, entropies_n


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits_nv: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        found = [_of(part) for part in torch.split(logits_nv, _rows(logits_nv))]
        normalizers_n = torch.cat([normalizer for normalizer, _ in found])
        entropies_n = torch.cat([entropy for _, entropy in found])
        context.save_for_backward(logits_nv, targets_n, normalizers_n)
        context.mark_non_differentiable(entropies_n)
        return logits_nv.gather(1, targets_n[:, None]).squeeze(1) - normalizers_n, entropies_n

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient_n: Tensor, _entropies: Tensor) -> tuple[Tensor, None]:
        """gradient * (1 at the target - softmax), written over the logits."""
        logits_nv, targets_n, normalizers_n = context.saved_tensors
        for part, rows in zip(
            torch.split(logits_nv, _rows(logits_nv)),
            torch.split(torch.stack([normalizers_n, -gradient_n]), _rows(logits_nv), dim=1),
            strict=True,
        ):
            part.sub_(rows[0][:, None]).exp_().mul_(rows[1][:, None])
        logits_nv.scatter_add_(1, targets_n[:, None], gradient_n[:, None])
        return logits_nv, None


def _of(logits_nv: Tensor) -> tuple[Tensor, Tensor]:
    """log sum exp and entropy of some rows: the former less the mean logit under the softmax."""
    largest_n1 = logits_nv.max(dim=1, keepdim=True).values
    shifted_nv = logits_nv - largest_n1
    weights_nv = shifted_nv.exp()
    sums_n = weights_nv.sum(dim=1)
    # What cannot be sampled, at -inf, has no part in the mean.
    mean_n = torch.linalg.vecdot(weights_nv, shifted_nv.clamp_(min=_NEVER)) / sums_n
    logarithms_n = sums_n.log()
    return logarithms_n + largest_n1.squeeze(1), logarithms_n - mean_n


def _rows(logits_nv: Tensor) -> int:
    return max(1, _PART_ELEMENTS // logits_nv.shape[1])
