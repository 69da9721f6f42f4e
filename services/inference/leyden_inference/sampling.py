"""Choosing tokens for a whole batch at once.

Reported log-probabilities are vLLM's default, ``raw_logprobs``: the log-softmax of the logits before
temperature, top-k and top-p. At temperature 1 with both filters off that is the distribution sampled from,
which is what the learner recomputes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy, as in vLLM."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is sampled. ``top_k`` 0 and ``top_p`` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 16
    ignore_eos: bool = False
    top_logprobs: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def filtered(self) -> bool:
        """Whether top-k or top-p removes tokens."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1.0)


class Draws:
    """The random numbers of one sequence, one a token; a seed repeats them whatever else is in the batch."""

    def __init__(self, seed: int | None) -> None:
        self.next = random.Random(seed).random if seed is not None else random.random


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token for each row. ``top`` holds (token, log-probability), likeliest first, where asked for."""

    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]] | None = None


@dataclass(slots=True)
class Sampler:
    """The sampling parameters of a batch as tensors, rebuilt when a row joins or leaves."""

    params: Sequence[SamplingParams]
    draws: Sequence[Draws]
    _inverse_temperature_b1: Tensor = field(init=False)
    _greedy_b: Tensor | None = field(init=False)
    _filtered: list[int] = field(init=False)
    _top: int = field(init=False)

    def __post_init__(self) -> None:
        warm = [1.0 if p.greedy else 1.0 / p.temperature for p in self.params]
        self._inverse_temperature_b1 = torch.tensor(warm).unsqueeze(1)
        greedy = [p.greedy for p in self.params]
        self._greedy_b = torch.tensor(greedy) if any(greedy) else None
        self._filtered = [row for row, p in enumerate(self.params) if p.filtered]
        self._top = max((p.top_logprobs for p in self.params), default=0)

    def __call__(self, logits_bv: Tensor) -> Sampled:
        """Sample by inverse transform: the first token whose cumulative probability exceeds a draw."""
        raw_bv = torch.log_softmax(logits_bv, dim=-1)
        scaled_bv = logits_bv * self._inverse_temperature_b1
        for row in self._filtered:
            keep_only(scaled_bv[row], self.params[row].top_k, self.params[row].top_p)
        cumulative_bv = torch.softmax(scaled_bv, dim=-1).cumsum(dim=-1)
        uniform_b1 = torch.tensor([draw.next() for draw in self.draws]).unsqueeze(1)
        target_b1 = uniform_b1 * cumulative_bv[:, -1:]
        tokens_b1 = torch.searchsorted(cumulative_bv, target_b1, right=True)
        tokens_b1.clamp_(max=logits_bv.shape[1] - 1)
        if self._greedy_b is not None:
            tokens_b1 = torch.where(
                self._greedy_b.unsqueeze(1), logits_bv.argmax(-1, keepdim=True), tokens_b1
            )
        logprobs_b = raw_bv.gather(1, tokens_b1).squeeze(1)
        return Sampled(tokens_b1.squeeze(1).tolist(), logprobs_b.tolist(), self._likeliest(raw_bv))

    def _likeliest(self, raw_bv: Tensor) -> list[list[tuple[int, float]]] | None:
        if not self._top:
            return None
        values, tokens = raw_bv.topk(min(self._top, raw_bv.shape[1]), dim=-1)
        rows = zip(tokens.tolist(), values.tolist(), self.params, strict=True)
        return [list(zip(ids, logprobs, strict=True))[: p.top_logprobs] for ids, logprobs, p in rows]


def keep_only(logits_v: Tensor, top_k: int, top_p: float) -> None:
    """Set to minus infinity, in place, what top-k and then top-p (nucleus, Holtzman et al., 2020) remove.

    The likeliest token always stays.
    """
    ordered, tokens = logits_v.sort(descending=True)
    removed = torch.zeros_like(ordered, dtype=torch.bool)
    if 0 < top_k < ordered.shape[0]:
        removed[top_k:] = True
        ordered = ordered.masked_fill(removed, float("-inf"))
    if top_p < 1.0:
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        removed |= before >= top_p
    removed[0] = False
    logits_v[tokens[removed]] = float("-inf")
