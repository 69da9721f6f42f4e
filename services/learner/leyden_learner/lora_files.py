"""Adapters in and out of folders, as peft lays them out: what is published, what a run may begin with."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from leyden_learner.adapter_folder import WEIGHTS, is_adapter, read_config, write_config
from leyden_learner.lora import published_name
from leyden_learner.settings import LearnerSettings
from leyden_learner.trainer_state import spread


class OtherAdapters(ValueError):
    """A run begins with adapters that these settings do not make."""


def write_adapter(folder: Path, weights: Mapping[str, Tensor], settings: LearnerSettings) -> None:
    """Put adapters, named as ``published`` names them, into a folder as peft does."""
    from peft import LoraConfig

    layers = sorted({name.split(".")[-3] for name in weights})
    alpha = settings.adapter_alpha
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type]
        target_modules=list(settings.lora_targets) or layers,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    write_config(folder, config.to_dict())  # type: ignore[no-untyped-call]
    save_file(dict(weights), folder / WEIGHTS, metadata={"format": "pt"})


def refuse_without_rank(folder: Path, settings: LearnerSettings) -> None:
    """All weights cannot train from a folder that has only an adapter. Raises ``OtherAdapters``."""
    if is_adapter(folder) and not settings.lora_rank:
        raise OtherAdapters(
            f"{folder} is an adapter, and with LEYDEN_LEARNER_LORA_RANK=0 all weights train: "
            f"{_as_made(folder)}, or begin a new LEYDEN_LEARNER_RUN with full weights as the alias latest"
        )


@torch.no_grad()
def begin_with(folder: Path, parameters: Mapping[str, Tensor], settings: LearnerSettings) -> None:
    """Let adapters in training, by name, begin as those in a folder. Raises ``OtherAdapters``."""
    try:
        stored, config = load_file(folder / WEIGHTS), read_config(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise OtherAdapters(f"{folder}: cannot be read: {error}") from error
    own = {published_name(name): value for name, value in parameters.items()}
    scale = (config.get("r"), config.get("lora_alpha"), bool(config.get("use_rslora")))
    shapes = {name: value.shape for name, value in stored.items()}
    if scale != (settings.lora_rank, settings.adapter_alpha, False) or shapes != {
        name: value.shape for name, value in own.items()
    }:
        raise OtherAdapters(
            f"{folder} has adapters that the LEYDEN_LEARNER_LORA_… settings do not make: {_as_made(folder)}, "
            "or let the alias latest name full weights before the run begins"
        )
    for name, value in own.items():
        value.copy_(spread(value, stored[name]))


def _as_made(folder: Path) -> str:
    config = read_config(folder)
    return (
        f"set LEYDEN_LEARNER_LORA_RANK={config.get('r')}, _ALPHA={config.get('lora_alpha')} "
        f"and _TARGETS={json.dumps(config.get('target_modules'))}"
    )
