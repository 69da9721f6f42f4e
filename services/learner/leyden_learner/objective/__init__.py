"""The loss of a step, composed from one formula a file. Pure functions; ``_n`` is sampled tokens."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from leyden_learner.objective.base import Bounds, Loss, Tokens
from leyden_learner.objective.cispo import cispo
from leyden_learner.objective.gspo import gspo
from leyden_learner.objective.importance import CORRECTIONS, ratio
from leyden_learner.objective.kl import ESTIMATORS, k2
from leyden_learner.objective.ppo_clip import ppo_clip

LOSSES: dict[str, Loss] = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """Bounds and weights; the settings of the same names say what they mean."""

    clip_low: float
    clip_high: float
    dual_clip: float
    importance_cap: float
    kl_coefficient: float
    loss: str = "ppo_clip"
    importance: str = "truncated"
    importance_low: float = 0.0
    kl: str = "k3"

    @property
    def bounds(self) -> Bounds:
        """Those of the ratio."""
        return Bounds(self.clip_low, self.clip_high, self.dual_clip)


class Evidence(NamedTuple):
    """What a loss is computed from, per sampled token. ``reference_logprobs_n`` is None without a KL term.

    ``sequence_n`` numbers the completion of each token within the micro-batch. ``anchor_logprobs_n`` are the
    trainer's own at the start of the step, for importance correction.
    """

    logprobs_n: Tensor
    sampler_logprobs_n: Tensor
    advantages_n: Tensor
    weights_n: Tensor
    sequence_n: Tensor
    anchor_logprobs_n: Tensor | None = None
    reference_logprobs_n: Tensor | None = None


class Terms(NamedTuple):
    """The weighted loss to minimise, and per-token measurements without gradient.

    ``ratio_n`` is policy / sampler, ``bounded_n`` the ratio that the loss bounds, which may be to the anchor
    or of a whole completion; None where a backend does not tell it.
    """

    loss: Tensor
    ratio_n: Tensor
    clipped_n: Tensor
    importance_n: Tensor
    kl_sampler_n: Tensor
    kl_reference_n: Tensor
    bounded_n: Tensor | None = None


def objective(evidence: Evidence, config: ObjectiveConfig) -> Terms:
    """sum of weight * (importance * policy loss + kl_coefficient * KL estimate to the reference).

    Without importance correction the ratio is policy / sampler and the importance 1. With it the loss is
    decoupled (Hilton et al. 2021): the ratio is policy / anchor, which is 1 in the first pass over a batch,
    and the importance anchor / sampler, truncated or masked, without gradient.
    """
    logprobs_n, sampler_n = evidence.logprobs_n, evidence.sampler_logprobs_n
    anchor_n, importance_n = anchored(evidence, config)
    detached_n = logprobs_n.detach()
    tokens = Tokens(logprobs_n, anchor_n, evidence.advantages_n, evidence.sequence_n)
    policy = LOSSES[config.loss](tokens, config.bounds)
    loss_n = importance_n * policy.loss_n
    kl_n = sampler_n.new_zeros(sampler_n.shape)
    if evidence.reference_logprobs_n is not None:
        kl_n = ESTIMATORS[config.kl](logprobs_n, evidence.reference_logprobs_n)
        loss_n = loss_n + config.kl_coefficient * kl_n
    return Terms(
        loss=(evidence.weights_n * loss_n).sum(),
        ratio_n=ratio(detached_n, sampler_n),
        clipped_n=policy.clipped_n,
        importance_n=importance_n,
        kl_sampler_n=k2(detached_n, sampler_n),
        kl_reference_n=kl_n.detach(),
        bounded_n=policy.ratio_n,
    )


def anchored(evidence: Evidence, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """The log-probabilities that the ratio is taken to, and the importance of each token."""
    sampler_n = evidence.sampler_logprobs_n
    if not config.importance_cap:
        return sampler_n, sampler_n.new_ones(sampler_n.shape)
    own_n = evidence.anchor_logprobs_n
    anchor_n = evidence.logprobs_n.detach() if own_n is None else own_n
    correct = CORRECTIONS[config.importance]
    return anchor_n, correct(ratio(anchor_n, sampler_n), low=config.importance_low, cap=config.importance_cap)


__all__ = ["LOSSES", "Evidence", "ObjectiveConfig", "Terms", "anchored", "objective"]
