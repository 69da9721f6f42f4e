"""How far one distribution has moved from another, estimated on sampled tokens."""

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound of log ratios before exponentiation, so that one odd token gives a large number, not inf."""


def k3(logprobs_n: Tensor, reference_logprobs_n: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log reference - log policy: 0 where they agree, else above (Schulman 2020)."""
    d_n = (reference_logprobs_n - logprobs_n).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.exp(d_n) - d_n - 1.0


def k2(logprobs_n: Tensor, sampler_logprobs_n: Tensor) -> Tensor:
    """(log policy - log sampler)^2 / 2: a measure of drift that single rare tokens do not dominate."""
    return 0.5 * (logprobs_n - sampler_logprobs_n).square()
