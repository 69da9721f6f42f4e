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
    (rank, scale), parts = _rank_and_scale(config), _read(adapter)
    changed = dict(tensors)
    for layer in sorted({name.rsplit(".lora_", 1)[0] for name in parts}):
        target = layer.removeprefix(_PREFIX) + ".weight"
        down_ri, up_or = (parts.get(f"{layer}.lora_{half}.weight") for half in "AB")
        weight_oi = tensors.get(target)
        if down_ri is None or up_or is None or weight_oi is None:
            raise UnsupportedModel(f"the adapter changes {target}, half of which or all of which is missing")
        outputs, inputs = weight_oi.shape
        shapes = tuple(up_or.shape), tuple(down_ri.shape)
        if shapes != ((outputs, rank), (rank, inputs)):
            raise UnsupportedModel(
                f"the adapter of rank {rank} changes {target}, which is {(outputs, inputs)}, by a product of "
                f"{shapes[0]} and {shapes[1]}"
            )
        changed[target] = weight_oi.float() + scale * (up_or.float() @ down_ri.float())
    return changed


def _rank_and_scale(config: dict[str, Any]) -> tuple[int, float]:
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"adapter_config.json: no rank and alpha: {error!r}") from None
    if rank < 1 or not math.isfinite(scale):
        raise UnsupportedModel(f"adapter_config.json: rank {rank} and alpha {alpha} give no scale")
    return rank, scale


def _read(adapter: Path) -> dict[str, Tensor]:
    try:
        parts: dict[str, Tensor] = load_file(adapter / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UnsupportedModel(f"cannot read adapter_model.safetensors: {error}") from None
    foreign = [name for name in parts if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if foreign:
        raise UnsupportedModel(f"adapter_model.safetensors has {foreign[0]}, which is no low-rank matrix")
    return parts
