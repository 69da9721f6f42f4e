"""The clipped policy-gradient loss of PPO and GRPO, with separate bounds (DAPO) and dual clip."""

import torch
from torch import Tensor

from leyden_learner.objective.base import Bounds, PolicyLoss, Tokens
from leyden_learner.objective.importance import ratio


def ppo_clip(tokens: Tokens, bounds: Bounds) -> PolicyLoss:
    """-min(r A, clip(r, 1 - low, 1 + high) A) with r = policy / anchor; for A < 0 at most -dual A.

    Schulman et al. 2017; separate bounds from DAPO (Yu et al. 2025); dual clip from Ye et al. 2020.
    An advantage of 0 gives a loss and a gradient of 0.
    """
    return clipped(ratio(tokens.logprobs_n, tokens.anchor_logprobs_n), tokens.advantages_n, bounds)


def clipped(ratio_n: Tensor, advantages_n: Tensor, bounds: Bounds) -> PolicyLoss:
    """The same for given ratios."""
    plain_n = -ratio_n * advantages_n
    bounded_n = -ratio_n.clamp(1.0 - bounds.low, 1.0 + bounds.high) * advantages_n
    pessimistic_n = torch.maximum(plain_n, bounded_n)
    negative_n = advantages_n < 0
    ceiling_n = torch.where(negative_n, -bounds.dual * advantages_n, torch.inf)
    loss_n = torch.minimum(pessimistic_n, ceiling_n)
    return PolicyLoss(loss_n, (bounded_n > plain_n) | (plain_n > ceiling_n), ratio_n.detach())
