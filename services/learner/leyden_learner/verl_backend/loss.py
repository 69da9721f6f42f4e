"""verl's policy losses and KL estimates over our samples, as a loss function that its engines call."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty
from verl.workers.config import ActorConfig, PolicyLossConfig

from leyden_learner.collate import MicroBatch
from leyden_learner.measurements import Tally
from leyden_learner.objective import Evidence, ObjectiveConfig, Terms, anchored
from leyden_learner.objective.importance import ratio
from leyden_learner.objective.kl import k2
from leyden_learner.verl_backend.batch import Completions, sampled

_LOSSES = {"ppo_clip": "vanilla", "gspo": "gspo", "cispo": "cispo"}
_SUM = "token-sum"
_UNBOUNDED = 1e9


def actor_config(config: ObjectiveConfig) -> ActorConfig:
    """The bounds as verl's losses take them."""
    return ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=config.clip_low,
        clip_ratio_high=config.clip_high,
        clip_ratio_c=min(config.dual_clip, _UNBOUNDED),
        policy_loss=PolicyLossConfig(loss_mode=_LOSSES[config.loss]),
        loss_agg_mode=_SUM,
    )


@dataclass(frozen=True, slots=True)
class VerlLoss:
    """The loss of one pass. Tokens weigh what our aggregation says: verl adds up, it does not average.

    Every completion is a sequence of verl's. The weights go in where verl has those of importance sampling.
    """

    config: ObjectiveConfig
    actor: ActorConfig
    batch: MicroBatch
    reference_n: Tensor | None
    anchor_n: Tensor | None
    tally: Tally

    def __call__(
        self, model_output: dict[str, Tensor], data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """The loss to go back through, and no metrics: they are in the tally."""
        batch, config = self.batch, self.config
        logprobs_n = sampled(model_output["log_probs"], batch).float()
        evidence = Evidence(
            logprobs_n=logprobs_n,
            sampler_logprobs_n=batch.sampler_logprobs_n,
            advantages_n=batch.advantages_n,
            weights_n=batch.weights_n,
            sequence_n=batch.sequence_n,
            anchor_logprobs_n=self.anchor_n,
            reference_logprobs_n=self.reference_n,
        )
        anchor_n, importance_n = anchored(evidence, config)
        grid = Completions(batch.sequence_n)
        mask_st = grid.matrix(torch.ones_like(logprobs_n)).bool()
        loss, measured = get_policy_loss_fn(_LOSSES[config.loss])(
            old_log_prob=grid.matrix(anchor_n),
            log_prob=grid.matrix(logprobs_n),
            advantages=grid.matrix(batch.advantages_n),
            response_mask=mask_st,
            loss_agg_mode=_SUM,
            config=self.actor,
            rollout_is_weights=grid.matrix(batch.weights_n * importance_n),
        )
        kl_n = torch.zeros_like(logprobs_n)
        if self.reference_n is not None:
            kl_n = kl_penalty(logprobs_n, self.reference_n, config.kl)
            weighted_st = grid.matrix(batch.weights_n * kl_n)
            loss = loss + config.kl_coefficient * agg_loss(weighted_st, mask_st, _SUM)
        detached_n = logprobs_n.detach()
        terms = Terms(
            loss=loss.detach(),
            ratio_n=ratio(detached_n, batch.sampler_logprobs_n),
            clipped_n=torch.full_like(detached_n, _clipped(measured)),
            importance_n=importance_n,
            kl_sampler_n=k2(detached_n, batch.sampler_logprobs_n),
            kl_reference_n=kl_n.detach(),
        )
        self.tally.add(terms, sampled(model_output["entropy"], batch).detach(), detached_n)
        return loss, {}


def _clipped(measured: dict[str, Any]) -> float:
    """The share of tokens that a bound holds: of the ratio, or of the dual clip."""
    return float(measured["actor/pg_clipfrac"]) + float(measured["actor/pg_clipfrac_lower"])
