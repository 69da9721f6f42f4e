"""The probe of a checkpoint: what its weights answer to a fixed row of tokens, for those who serve them."""

import sys
from collections.abc import Callable
from typing import Any

import torch

from leyden_learner.collate import MicroBatch, weightless
from leyden_learner.health import NonFiniteWeights
from leyden_learner.model import TokenScores
from leyden_platform.probe import Probe, probe_ids


@torch.no_grad()
def probe(score: Callable[[MicroBatch], TokenScores], config: Any, device: torch.device) -> Probe:
    """Log-probabilities in fp32 by the model as it is, adapters included; ``config`` is of its text part.

    Raises ``NonFiniteWeights`` when they are not finite.
    """
    ids = probe_ids(config.vocab_size, getattr(config, "max_position_embeddings", sys.maxsize))
    logprobs_n = score(weightless(ids).to(device)).logprobs_n
    if not logprobs_n.isfinite().all():
        raise NonFiniteWeights("the weights are finite, and what they answer to the probe is not")
    return Probe(tuple(ids), tuple(logprobs_n.clamp(max=0.0).tolist()))
