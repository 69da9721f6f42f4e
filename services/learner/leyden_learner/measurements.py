"""What a step is measured by, whichever backend trains it."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from leyden_learner.objective import Terms
from leyden_schemas import TokenSpan, TrainingSample


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
        self.ratio_max = _larger(self.ratio_max, terms.ratio_n.max().item())
        measured = {
            "clip_fraction": terms.clipped_n,
            "importance_weight": terms.importance_n,
            "kl_sampler": terms.kl_sampler_n,
            "kl_reference": terms.kl_reference_n,
            "entropy": entropies_n,
        }
        for name, values_n in (measured | _by_bound(terms)).items():
            self.sums[name] = self.sums.get(name, 0.0) + values_n.float().sum().item()
        self.logprobs.append(logprobs_n.detach())

    @classmethod
    def total(cls, tallies: Iterable[Self]) -> Self:
        """Of all parts of a batch, wherever they were measured; log-probabilities stay there."""
        total = cls()
        for tally in tallies:
            total.loss += tally.loss
            total.tokens += tally.tokens
            total.ratio_max = _larger(total.ratio_max, tally.ratio_max)
            for name, value in tally.sums.items():
                total.sums[name] = total.sums.get(name, 0.0) + value
        return total

    def means(self) -> dict[str, float]:
        """Token means, the loss and the largest ratio."""
        means = {name: total / self.tokens for name, total in self.sums.items()}
        return {"loss": self.loss, "ratio_max": self.ratio_max, **means}


def _larger(one: float, other: float) -> float:
    """NaN when either is: it must not be hidden by a number."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _by_bound(terms: Terms) -> dict[str, Tensor]:
    """Tokens that the lower and the upper bound holds, where the backend tells which tokens are held."""
    if terms.bounded_n is None:
        return {}
    return {
        "clip_low_fraction": terms.clipped_n & (terms.bounded_n < 1),
        "clip_high_fraction": terms.clipped_n & (terms.bounded_n > 1),
    }


def describe(samples: Sequence[TrainingSample], version: int) -> dict[str, float]:
    """What a batch is made of: rewards by rollout, advantages and staleness by sampled token."""
    rewards = [sample.reward for sample in samples]
    spans = [span for sample in samples for row in sample.rows for span in row.spans]
    tokens = sum(len(span.logprobs) for span in spans)
    advantage_mean = sum(span.advantage * len(span.logprobs) for span in spans) / tokens
    variance = sum((span.advantage - advantage_mean) ** 2 * len(span.logprobs) for span in spans) / tokens
    return _lengths(spans) | {
        "rollouts": float(len(samples)),
        "groups": float(len({sample.group_id for sample in samples})),
        "rows": float(sum(len(sample.rows) for sample in samples)),
        "sampled_tokens": float(tokens),
        "reward_mean": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "advantage_mean": advantage_mean,
        "advantage_std": math.sqrt(variance),
        "advantage_max": max(abs(span.advantage) for span in spans),
        "zero_advantage_share": sum(len(span.logprobs) for span in spans if not span.advantage) / tokens,
        "staleness_mean": sum((version - span.version) * len(span.logprobs) for span in spans) / tokens,
    }


def _lengths(spans: Sequence[TokenSpan]) -> dict[str, float]:
    """Of completions, of which each span is one."""
    lengths = [len(span.logprobs) for span in spans]
    return {
        "completion_length_mean": statistics.fmean(lengths),
        "completion_length_max": float(max(lengths)),
        "truncated_share": statistics.fmean(span.truncated for span in spans),
    }
