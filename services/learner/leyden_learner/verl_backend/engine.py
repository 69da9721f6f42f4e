"""verl's FSDP engine over a Hugging Face folder, told what the settings say."""

import contextlib
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from leyden_learner.lora import NoSuchLayers
from leyden_learner.model import UnsupportedModel, choose_device
from leyden_learner.settings import LearnerSettings
from leyden_learner.verl_backend.platform import prepare


def build_engine(settings: LearnerSettings, folder: Path, *, lora: bool) -> Any:
    """The engine over the weights in a folder, with a new optimizer; adapters too with ``lora``.

    Raises ``UnsupportedModel`` and ``NoSuchLayers``.
    """
    device = choose_device(settings.device)
    prepare(device)
    # verl prints what it does and warns of engines nobody asked for; the service's own output is a log.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
        from verl.workers.engine import EngineRegistry

        try:
            engine = EngineRegistry.new(
                model_type="language_model",
                backend="fsdp2",
                model_config=_model_config(settings, folder, device, lora=lora),
                engine_config=_engine_config(settings),
                optimizer_config=_optimizer_config(settings),
                checkpoint_config=_checkpoint_config(),
            )
            engine.initialize()
        except (OSError, ValueError, KeyError) as error:
            if lora and "target" in str(error).lower():
                raise NoSuchLayers(f"LEYDEN_LEARNER_LORA_TARGETS={settings.lora_targets}: {error}") from error
            raise UnsupportedModel(f"verl cannot load a causal LM from {folder}: {error}") from error
    return engine


def _model_config(settings: LearnerSettings, folder: Path, device: torch.device, *, lora: bool) -> Any:
    from transformers import AutoConfig
    from verl.workers.config import HFModelConfig

    known = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config().to_dict()
    # verl trains in training mode; samples were taken without dropout.
    still = {name: 0.0 for name, value in known.items() if "drop" in name and isinstance(value, float)}
    return HFModelConfig(
        path=str(folder),
        load_tokenizer=False,
        override_config={"attn_implementation": _attention(device), **still},
        enable_gradient_checkpointing=settings.activation_checkpointing,
        use_remove_padding=settings.packing,
        lora_rank=settings.lora_rank if lora else 0,
        lora_alpha=settings.adapter_alpha,
        target_modules=list(settings.lora_targets) or "all-linear",
    )


def _attention(device: torch.device) -> str:
    """Without flash attention, packed rows are kept apart by a mask over all of them."""
    flash = device.type == "cuda" and find_spec("flash_attn") is not None
    return "flash_attention_2" if flash else "sdpa"


def _engine_config(settings: LearnerSettings) -> Any:
    from verl.workers.config import FSDPEngineConfig

    return FSDPEngineConfig(
        strategy="fsdp2",
        model_dtype="fp32",
        mixed_precision={"param_dtype": settings.precision, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        use_torch_compile=False,
        use_dynamic_bsz=False,
        use_remove_padding=settings.packing,
        seed=settings.seed,
    )


def _optimizer_config(settings: LearnerSettings) -> Any:
    from verl.workers.config import FSDPOptimizerConfig

    return FSDPOptimizerConfig(
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        clip_grad=settings.grad_clip,
    )


def _checkpoint_config() -> Any:
    from verl.trainer.config import CheckpointConfig

    return CheckpointConfig()
