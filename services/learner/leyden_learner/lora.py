"""Low-rank adapters (Hu et al. 2021) inside a model, by peft: put in, switched off, read out, merged.

Only the adapters are trained. What is published are the merged weights, which every engine serves, or the
adapters alone as peft lays them out.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from leyden_learner.settings import LearnerSettings

PEFT_PREFIX = "base_model.model."
_NAME = "default"
_OWN = re.compile(r"\.lora_[A-Za-z_]+\.")
_LINEAR = re.compile(r"\.lora_[AB]\.weight$")
_BASE = ".base_layer."
_TARGETS = "LEYDEN_LEARNER_LORA_TARGETS"


class NoSuchLayers(ValueError):
    """The model has none of the layers that the adapters were meant for, or they cannot have any."""


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
        raise NoSuchLayers(f"{_TARGETS}={list(targets)}: {error}") from error


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


def published(model: Any) -> dict[str, Tensor]:
    """The same by the names that peft gives them in a file."""
    return {published_name(name): value for name, value in adapters(model).items()}


def published_name(name: str) -> str:
    """That of one of them, by its parameter's."""
    return PEFT_PREFIX + name.removeprefix(PEFT_PREFIX).replace(f".{_NAME}.", ".")


def check_servable(model: Any, settings: LearnerSettings) -> None:
    """Refuse, before anything is trained, adapters that nobody could serve, and targets that are no layers.

    Raises ``NoSuchLayers``.
    """
    from peft.tuners.lora.layer import ParamWrapper

    adapted = [name for name, _ in _layers(model)]
    if bundles := [name for name, layer in _layers(model) if isinstance(layer, ParamWrapper)]:
        raise NoSuchLayers(
            f"{_TARGETS}={settings.lora_targets}: {bundles[0]} has the weights of several experts in one "
            'tensor, which cannot have adapters here; name other layers, such as ["q_proj", "v_proj"]'
        )
    for target in settings.lora_targets:
        if not any(f".{name}".endswith(f".{target}") for name in adapted):
            raise NoSuchLayers(f"{_TARGETS}={settings.lora_targets}: no layer is named {target}")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(map(_is_adapted, ends)):
        raise NoSuchLayers(
            f"{_TARGETS}={settings.lora_targets}: the model's head and its embedding are one tensor, "
            "which an adapter of one of them would split; leave both out"
        )
    foreign = [name for name in published(model) if not _LINEAR.search(name)]
    if settings.publish == "adapter" and foreign:
        raise NoSuchLayers(
            f"{_TARGETS}={settings.lora_targets}: {foreign[0]} is not of a linear layer, and engines serve "
            "adapters of no others; leave it out, or set LEYDEN_LEARNER_PUBLISH=merged"
        )


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
    return ((name, layer) for name, layer in model.named_modules() if _is_adapted(layer))


def _is_adapted(layer: Any) -> bool:
    return hasattr(layer, "get_delta_weight")
