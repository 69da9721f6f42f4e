"""What the built-in decoder answers to a probe: a check of itself, and what another engine must answer."""

from collections.abc import Sequence
from pathlib import Path

import torch

from leyden_inference.architecture import Architecture
from leyden_inference.decoder import Decoder
from leyden_inference.weights import fuse, read_tensors
from leyden_platform.probe import PROBE_TOKENS, Probe, probe_ids


@torch.inference_mode()
def answers(decoder: Decoder, token_ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first, each given those before it, in one pass."""
    ids_bp, count = torch.tensor([list(token_ids)]), len(token_ids)
    hidden = decoder.forward(decoder.cache(1), 0, ids_bp, torch.arange(count).unsqueeze(0), count)
    logprobs_tv = torch.log_softmax(decoder.logits(hidden[0, :-1]), dim=-1)
    logprobs: list[float] = logprobs_tv.gather(1, ids_bp[0, 1:, None]).squeeze(1).clamp(max=0.0).tolist()
    return logprobs


def computed_probe(folder: Path) -> Probe:
    """The probe of a folder that has none, from its weights. Raises ``UnsupportedModel``."""
    arch = Architecture.load(folder)
    decoder = Decoder(arch, fuse(read_tensors(folder), arch), PROBE_TOKENS)
    ids = probe_ids(arch.vocabulary, decoder.context)
    return Probe(tuple(ids), tuple(answers(decoder, ids)))
