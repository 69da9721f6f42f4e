"""What every policy loss takes and gives. ``n`` is the sampled tokens of a micro-batch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Bounds(NamedTuple):
    """The ratio counts from ``1 - low`` to ``1 + high``, and up to ``dual`` for a negative advantage."""

    low: float
    high: float
    dual: float


class Tokens(NamedTuple):
    """The sampled tokens: the policy's log-probabilities, those the ratio is taken to, and what earned them.

    ``sequence_n`` numbers the completion of each token, from 0.
    """

    logprobs_n: Tensor
    anchor_logprobs_n: Tensor
    advantages_n: Tensor
    sequence_n: Tensor


class PolicyLoss(NamedTuple):
    """Loss per token, to minimise, and which tokens a bound keeps from having their full effect.

    ``ratio_n`` is what the bounds are of, without gradient.
    """

    loss_n: Tensor
    clipped_n: Tensor
    ratio_n: Tensor


Loss = Callable[[Tokens, Bounds], PolicyLoss]
