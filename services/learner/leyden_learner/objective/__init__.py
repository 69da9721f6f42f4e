"""The loss of a step, composed from one formula a file. Pure functions; ``_n`` is sampled tokens."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from leyden_learner.objective.importance import ratio, truncated_weights
from leyden_learner.objective.kl import k2, k3
from leyden_learner.objective.ppo_clip import ppo_clip


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """Bounds and weights; the settings of the same names say what they mean."""

    clip_low: float
    clip_high: float
    dual_clip: float
    importance_cap: float
    kl_coefficient: float


class Evidence(NamedTuple):
    """What a loss is computed from, per sampled token. ``reference_logprobs_n`` is None without a KL term.

    ``anchor_logprobs_n`` are the trainer's own at the start of the step, for importance correction.
    """

    logprobs_n: Tensor
    sampler_logprobs_n: Tensor
    advantages_n: Tensor
    weights_n: Tensor
    anchor_logprobs_n: Tensor | None = None
    reference_logprobs_n: Tensor | None = None


class Terms(NamedTuple):
    """The weighted loss to minimise, and per-token measurements without gradient."""

    loss: Tensor
    ratio_n: Tensor
    clipped_n: Tensor
    importance_n: Tensor
    kl_sampler_n: Tensor
    kl_reference_n: Tensor


def objective(evidence: Evidence, config: ObjectiveConfig) -> Terms:
    """sum of weight * (importance * clipped policy loss + kl_coefficient * k3 to the reference).

    Without importance correction the ratio is policy / sampler and the importance 1. With it the ratio is
    policy / anchor, which is 1 in the first pass over a batch, and the importance anchor / sampler, capped.
    """
    logprobs_n, sampler_n = evidence.logprobs_n, evidence.sampler_logprobs_n
    detached_n = logprobs_n.detach()
    off_policy_n = ratio(detached_n, sampler_n)
    if config.importance_cap:
        anchor_n = detached_n if evidence.anchor_logprobs_n is None else evidence.anchor_logprobs_n
        importance_n = truncated_weights(anchor_n, sampler_n, cap=config.importance_cap)
    else:
        anchor_n, importance_n = sampler_n, sampler_n.new_ones(sampler_n.shape)
    clipped = ppo_clip(
        ratio(logprobs_n, anchor_n),
        evidence.advantages_n,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    loss_n = importance_n * clipped.loss_n
    kl_n = sampler_n.new_zeros(sampler_n.shape)
    if evidence.reference_logprobs_n is not None:
        kl_n = k3(logprobs_n, evidence.reference_logprobs_n)
        loss_n = loss_n + config.kl_coefficient * kl_n
    return Terms(
        loss=(evidence.weights_n * loss_n).sum(),
        ratio_n=off_policy_n,
        clipped_n=clipped.clipped_n,
        importance_n=importance_n,
        kl_sampler_n=k2(detached_n, sampler_n),
        kl_reference_n=kl_n.detach(),
    )


__all__ = ["Evidence", "ObjectiveConfig", "Terms", "objective"]
