"""Ratios between the policy in training and the one that sampled, and what they are used for."""

import torch
from torch import Tensor

from leyden_learner.objective.kl import MAX_LOG_RATIO


def ratio(logprobs_n: Tensor, anchor_logprobs_n: Tensor) -> Tensor:
    """policy / anchor per token, between exp(-20) and exp(20)."""
    return torch.exp((logprobs_n - anchor_logprobs_n).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def truncated(ratio_n: Tensor, *, low: float, cap: float) -> Tensor:
    """min(trainer / sampler, cap): truncated importance sampling (Yao et al. 2025); ``low`` is not used."""
    return ratio_n.clamp(max=cap)


def masked(ratio_n: Tensor, *, low: float, cap: float) -> Tensor:
    """trainer / sampler within [low, cap], else 0: where the two disagree nothing counts (IcePop 2025)."""
    return torch.where((ratio_n >= low) & (ratio_n <= cap), ratio_n, 0.0)


CORRECTIONS = {"truncated": truncated, "masked": masked}
