"""Loading a policy, and the log-probabilities it gives to sampled tokens at temperature 1."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from leyden_learner.attention import register
from leyden_learner.collate import MicroBatch
from leyden_learner.scores import scores

os.environ.setdefault("HF_HUB_OFFLINE", "1")

HEAD_ELEMENTS = 2**27
"""Logits held at a time; with more, the head is computed in parts and again in the backward pass."""

PROBE_TOLERANCE = 1e-4


class UnsupportedModel(ValueError):
    """The artifact is not a causal language model this learner can train; the text says why."""


class TokenScores(NamedTuple):
    """Per sampled token: its log-probability, and its distribution's entropy in nats, without gradient."""

    logprobs_n: Tensor
    entropies_n: Tensor


def choose_device(wish: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wish == "auto" else wish)


def load_model(folder: Path, device: torch.device, *, packing: bool = True) -> Any:
    """The causal LM in a Hugging Face folder, in fp32, with dropout off, for packed rows or for padded ones.

    Raises ``UnsupportedModel``.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    auto: Any = AutoModelForCausalLM
    try:
        model, read = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            attn_implementation=register() if packing else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModel(f"cannot load a causal LM from {folder}: {error}") from error
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    ready: Any = model.to(device).eval()
    probe_bt = torch.arange(4, device=device)[None] % ready.config.get_text_config().vocab_size
    try:
        _check_weights(ready, read)
        _check_head(ready, probe_bt)
        if packing:
            _check_packing(ready, probe_bt)
    except ValueError as error:
        raise UnsupportedModel(f"{type(model).__name__}: {error}") from error
    return ready


def _check_weights(model: Any, read: Mapping[str, Any]) -> None:
    """Refuse what transformers would make up by chance, and what no step could start from."""
    made_up = sorted({*read["missing_keys"], *(name for name, *_ in read["mismatched_keys"])})
    if made_up:
        raise UnsupportedModel(f"its weights lack {', '.join(made_up[:3])}, or have it in another shape")
    if odd := [name for name, value in model.named_parameters() if not value.isfinite().all()]:
        raise UnsupportedModel(f"{odd[0]} holds NaN or infinity")


@torch.no_grad()
def _check_head(model: Any, probe_bt: Tensor) -> None:
    """Scoring applies the head to the trunk itself; refuse models that do more than that in between."""
    whole = model(input_ids=probe_bt, use_cache=False).logits
    parts = model.get_output_embeddings()(_trunk(model, probe_bt))
    if not _close(whole, parts):
        raise UnsupportedModel("scales or caps its logits after the head, which this learner does not do")


@torch.no_grad()
def _check_packing(model: Any, probe_bt: Tensor) -> None:
    """Refuse models in which a row sees the one before it: other layers than attention carry state along."""
    packed_bt, positions_bt = probe_bt.repeat(1, 2), torch.arange(4, device=probe_bt.device).repeat(1, 2)
    packed = _trunk(model, packed_bt, positions_bt, (4, 4))
    if not _close(packed, _trunk(model, probe_bt).repeat(1, 2, 1)):
        raise UnsupportedModel("carries state from row to row; set LEYDEN_LEARNER_PACKING=false")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=PROBE_TOLERANCE, rtol=PROBE_TOLERANCE)


def spare_activations(model: Any) -> None:
    """Compute the layers' activations again in the backward pass instead of keeping them.

    Layers do this in training mode only, so that is what they, and nothing with dropout inside them, are in.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers(model):
        layer.training = True


def compile_layers(model: Any) -> None:
    """Have the layers compiled when they are first used, once for all of them and for every size of batch."""
    for layer in layers(model):
        layer.compile(dynamic=True)


def layers(model: Any) -> list[nn.Module]:
    """The blocks that a model is stacked from."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _trunk(
    model: Any,
    token_ids_bt: Tensor,
    positions_bt: Tensor | None = None,
    row_lengths: Sequence[int] | None = None,
) -> Tensor:
    """The last hidden states. Attention takes ``row_lengths``; padded rows have none."""
    packed = {"row_lengths": torch.tensor(row_lengths)} if row_lengths else {}
    hidden_bth: Tensor = model.base_model(
        input_ids=token_ids_bt, position_ids=positions_bt, use_cache=False, **packed
    ).last_hidden_state
    return hidden_bth


def token_logprobs(model: Any, batch: MicroBatch) -> TokenScores:
    """Score the sampled tokens of a batch. Logits exist only where a sampled token is predicted."""
    hidden_bth = _trunk(model, batch.token_ids_bt, batch.positions_bt, batch.row_lengths)
    hidden_nh = hidden_bth[batch.row_n, batch.position_n - 1]
    head: nn.Module = model.get_output_embeddings()
    targets_n = batch.targets_n
    part = max(1, HEAD_ELEMENTS // model.config.get_text_config().vocab_size)
    if len(targets_n) <= part:
        return TokenScores(*_score(head, hidden_nh, targets_n))
    scores = [
        checkpoint(_score, head, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(torch.split(hidden_nh, part), torch.split(targets_n, part), strict=True)
    ]
    return TokenScores(torch.cat([each[0] for each in scores]), torch.cat([each[1] for each in scores]))


def _score(head: nn.Module, hidden_nh: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    return scores(head(hidden_nh).float(), targets_n)
