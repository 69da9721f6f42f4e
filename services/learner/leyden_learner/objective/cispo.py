"""The loss of CISPO: REINFORCE whose importance weight is bounded, so that no token loses its gradient."""

from leyden_learner.objective.base import Bounds, PolicyLoss, Tokens
from leyden_learner.objective.importance import ratio


def cispo(tokens: Tokens, bounds: Bounds) -> PolicyLoss:
    """-stopgrad(clip(r, 1 - low, 1 + high)) A log policy (MiniMax 2025). ``dual`` has no part in it."""
    ratio_n = ratio(tokens.logprobs_n.detach(), tokens.anchor_logprobs_n)
    weight_n = ratio_n.clamp(1.0 - bounds.low, 1.0 + bounds.high)
    return PolicyLoss(-weight_n * tokens.advantages_n * tokens.logprobs_n, ratio_n != weight_n, ratio_n)
