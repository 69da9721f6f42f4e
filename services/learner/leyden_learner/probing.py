"""The probe of a checkpoint: what its weights answer to a fixed row of tokens, for those who serve them."""

import sys
from typing import Any

import torch

from leyden_platform.probe import Probe, probe_ids


@torch.no_grad()
def probe(model: Any) -> Probe:
    """Log-probabilities in fp32 by the model as it is, adapters included."""
    config = model.config.get_text_config()
    ids = probe_ids(config.vocab_size, getattr(config, "max_position_embeddings", sys.maxsize))
    ids_bt = torch.tensor([ids], device=next(model.parameters()).device)
    logits_tv = model(input_ids=ids_bt, use_cache=False).logits[0, :-1]
    logprobs_t = torch.log_softmax(logits_tv.float(), dim=-1).gather(1, ids_bt[0, 1:, None]).squeeze(1)
    return Probe(tuple(ids), tuple(logprobs_t.clamp(max=0.0).tolist()))
