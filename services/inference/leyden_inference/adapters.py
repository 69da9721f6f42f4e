"""Adapters as peft writes them, added into the weights they lie over: W + scale * B A (Hu et al., 2021)."""

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from leyden_inference.architecture import read_json
from leyden_inference.errors import UnsupportedModel

_PREFIX = "base_model.model."
_MUST_BE: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}


def merged(tensors: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """The weights with an adapter in them. Raises ``UnsupportedModel`` naming what cannot be added."""
    config = read_json(adapter / "adapter_config.json")
    for field, accepted in _MUST_BE.items():
        if config.get(field, accepted[0]) not in accepted:
            raise UnsupportedModel(f"adapter_config.json: {field} is {config[field]!r}, not {accepted[0]!r}")
    scale, parts = _scale(config), _read(adapter)
    changed = dict(tensors)
    for name, down_ri in parts.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        target, up_or = layer.removeprefix(_PREFIX) + ".weight", parts.get(f"{layer}.lora_B.weight")
        weight_oi = tensors.get(target)
        if up_or is None or weight_oi is None:
            raise UnsupportedModel(f"the adapter changes {target}, half of which or all of which is missing")
        delta_oi = scale * (up_or.float() @ down_ri.float())
        if delta_oi.shape != weight_oi.shape:
            raise UnsupportedModel(
                f"the adapter changes {target} as {tuple(delta_oi.shape)}, it is {tuple(weight_oi.shape)}"
            )
        changed[target] = weight_oi.float() + delta_oi
    return changed


def _scale(config: dict[str, Any]) -> float:
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"adapter_config.json: no rank and alpha: {error!r}") from None


def _read(adapter: Path) -> dict[str, Tensor]:
    try:
        parts: dict[str, Tensor] = load_file(adapter / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UnsupportedModel(f"cannot read adapter_model.safetensors: {error}") from None
    foreign = [name for name in parts if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if foreign:
        raise UnsupportedModel(f"adapter_model.safetensors has {foreign[0]}, which is no low-rank matrix")
    return parts
