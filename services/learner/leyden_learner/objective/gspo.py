"""The sequence-level loss of GSPO: all tokens of a completion share one ratio and are clipped together."""

import torch
from torch import Tensor

from leyden_learner.objective.base import Bounds, PolicyLoss, Tokens
from leyden_learner.objective.kl import MAX_LOG_RATIO
from leyden_learner.objective.ppo_clip import clipped


def gspo(tokens: Tokens, bounds: Bounds) -> PolicyLoss:
    """PPO's clipped loss with s = exp(mean over the completion of log(policy / anchor)) as the ratio.

    Zheng et al. 2025, in the token form (GSPO-token): the value is s, the gradient of token t is
    s * grad log policy_t, so tokens keep advantages of their own. A completion of one token is ``ppo_clip``.
    """
    mean_n = _sequence_mean((tokens.logprobs_n - tokens.anchor_logprobs_n).detach(), tokens.sequence_n)
    own_n = tokens.logprobs_n - tokens.logprobs_n.detach()
    ratio_n = torch.exp((mean_n + own_n).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    return clipped(ratio_n, tokens.advantages_n, bounds)


def _sequence_mean(values_n: Tensor, sequence_n: Tensor) -> Tensor:
    """The mean over each token's sequence, at each token."""
    if not len(sequence_n):
        return values_n
    sums = values_n.new_zeros(int(sequence_n.max()) + 1)
    counts = sums.index_add(0, sequence_n, torch.ones_like(values_n))
    return (sums.index_add(0, sequence_n, values_n) / counts.clamp(min=1.0))[sequence_n]
