"""Low-rank adapters (Hu et al. 2021) inside a model, by peft: put in, switched off, read out, merged.

Only the adapters are trained. What is published are the merged weights, so every engine serves them.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_NAME = "default"
_OWN = re.compile(r"\.lora_[A-Za-z_]+\.")
_BASE = ".base_layer."


class NoSuchLayers(ValueError):
    """The model has none of the layers that the adapters were meant for."""


def inject(model: Any, *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Give linear layers adapters that change nothing yet, and freeze everything else.

    ``targets`` are names of layers; none: every linear one but the head. The scale is ``alpha / rank``.
    Raises ``NoSuchLayers``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, model, _NAME)
    except ValueError as error:
        raise NoSuchLayers(f"LEYDEN_LEARNER_LORA_TARGETS={list(targets)}: {error}") from error


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Inside the block the model is the one that the adapters were put into."""
    layers = [layer for _, layer in _layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapters(model: Any) -> dict[str, Tensor]:
    """The adapters' weights by parameter name; empty without adapters."""
    return {name: value for name, value in model.named_parameters() if _OWN.search(name)}


@torch.no_grad()
def merged(model: Any) -> dict[str, Tensor]:
    """The weights of an ordinary model that computes the same; tied ones are one tensor."""
    whole = model.state_dict(keep_vars=True)
    once = {id(value): value.detach() for value in whole.values()}
    state: dict[str, Tensor] = {
        name.replace(_BASE, "."): once[id(value)] for name, value in whole.items() if not _OWN.search(name)
    }
    for name, layer in _layers(model):
        state[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(_NAME)
    return state


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers with adapters, by name; none in a model without."""
    return ((name, layer) for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight"))
