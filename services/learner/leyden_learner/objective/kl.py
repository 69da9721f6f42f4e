"""How far one distribution has moved from another, estimated on sampled tokens (Schulman 2020)."""

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound of log ratios before exponentiation, so that one odd token gives a large number, not inf."""


def k1(logprobs_n: Tensor, reference_logprobs_n: Tensor) -> Tensor:
    """log policy - log reference: unbiased, of either sign.

    As a loss its gradient is that of log policy, 0 in expectation: it measures and does not hold back.
    """
    return logprobs_n - reference_logprobs_n


def k2(logprobs_n: Tensor, reference_logprobs_n: Tensor) -> Tensor:
    """(log policy - log reference)^2 / 2: biased, with the KL's own gradient; no rare token dominates it."""
    return 0.5 * (logprobs_n - reference_logprobs_n).square()


def k3(logprobs_n: Tensor, reference_logprobs_n: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log reference - log policy: unbiased, 0 where they agree, else above."""
    d_n = (reference_logprobs_n - logprobs_n).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(d_n) - d_n


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
