"""What a step is measured by, whichever backend trains it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from leyden_learner.objective import Terms
from leyden_schemas import TrainingSample


@dataclass(slots=True)
class Tally:
    """Measurements of one pass over a batch, added up over its micro-batches."""

    loss: float = 0.0
    tokens: int = 0
    ratio_max: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    logprobs: list[Tensor] = field(default_factory=list)

    def add(self, terms: Terms, entropies_n: Tensor, logprobs_n: Tensor) -> None:
        """Count one micro-batch."""
        self.loss += terms.loss.item()
        self.tokens += len(logprobs_n)
        ratio_max = terms.ratio_n.max().item()
        self.ratio_max = ratio_max if math.isnan(ratio_max) else max(self.ratio_max, ratio_max)
        measured = {
            "clip_fraction": terms.clipped_n,
            "importance_weight": terms.importance_n,
            "kl_sampler": terms.kl_sampler_n,
            "kl_reference": terms.kl_reference_n,
            "entropy": entropies_n,
        }
        for name, values_n in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + values_n.float().sum().item()
        self.logprobs.append(logprobs_n.detach())

    def means(self) -> dict[str, float]:
        """Token means, the loss and the largest ratio."""
        means = {name: total / self.tokens for name, total in self.sums.items()}
        return {"loss": self.loss, "ratio_max": self.ratio_max, **means}


def describe(samples: Sequence[TrainingSample], version: int) -> dict[str, float]:
    """What a batch is made of: rewards by rollout, advantages and staleness by sampled token."""
    rewards = [sample.reward for sample in samples]
    spans = [span for sample in samples for row in sample.rows for span in row.spans]
    tokens = sum(len(span.logprobs) for span in spans)
    advantage_mean = sum(span.advantage * len(span.logprobs) for span in spans) / tokens
    variance = sum((span.advantage - advantage_mean) ** 2 * len(span.logprobs) for span in spans) / tokens
    return {
        "rollouts": float(len(samples)),
        "rows": float(sum(len(sample.rows) for sample in samples)),
        "sampled_tokens": float(tokens),
        "reward_mean": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "advantage_mean": advantage_mean,
        "advantage_std": math.sqrt(variance),
        "advantage_max": max(abs(span.advantage) for span in spans),
        "staleness_mean": sum((version - span.version) * len(span.logprobs) for span in spans) / tokens,
    }
