"""The clipped policy-gradient loss of PPO and GRPO, with separate bounds (DAPO) and dual clip."""

from typing import NamedTuple

import torch
from torch import Tensor


class ClippedLoss(NamedTuple):
    """Per-token loss, and which tokens a bound keeps from moving the policy."""

    loss_n: Tensor
    clipped_n: Tensor


def ppo_clip(
    ratio_n: Tensor, advantages_n: Tensor, *, clip_low: float, clip_high: float, dual_clip: float
) -> ClippedLoss:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A); for A < 0 at most -dual_clip A.

    Schulman et al. 2017; separate bounds from DAPO (Yu et al. 2025); dual clip from Ye et al. 2020.
    An advantage of 0 gives a loss and a gradient of 0.
    """
    plain_n = -ratio_n * advantages_n
    bounded_n = -ratio_n.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_n
    pessimistic_n = torch.maximum(plain_n, bounded_n)
    ceiling_n = -dual_clip * advantages_n
    negative_n = advantages_n < 0
    loss_n = torch.where(negative_n, torch.minimum(pessimistic_n, ceiling_n), pessimistic_n)
    return ClippedLoss(loss_n, (bounded_n > plain_n) | (negative_n & (plain_n > ceiling_n)))
