"""Ratios between the policy in training and the one that sampled."""

import torch
from torch import Tensor

from leyden_learner.objective.kl import MAX_LOG_RATIO


def ratio(logprobs_n: Tensor, anchor_logprobs_n: Tensor) -> Tensor:
    """policy / anchor per token, between exp(-20) and exp(20)."""
    return torch.exp((logprobs_n - anchor_logprobs_n).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def truncated_weights(trainer_logprobs_n: Tensor, sampler_logprobs_n: Tensor, *, cap: float) -> Tensor:
    """min(trainer / sampler, cap), detached: truncated importance sampling (Yao et al. 2025)."""
    return ratio(trainer_logprobs_n, sampler_logprobs_n).clamp(max=cap).detach()
