"""What the weights of a checkpoint answer, as they lie on disk and in fp32, whatever they were trained in."""

from pathlib import Path
from typing import Any

import torch

from leyden_learner.adapter_folder import is_adapter
from leyden_learner.collate import MicroBatch
from leyden_learner.model import TokenScores
from leyden_learner.probing import probe
from leyden_learner.scores import scores
from leyden_platform.probe import Probe


def probe_of(folder: Path, base: Path) -> Probe:
    """The probe of the model in a folder, or of the adapter over ``base``, by transformers on the CPU."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    adapted = is_adapter(folder)
    model = auto.from_pretrained(base if adapted else folder, dtype=torch.float32, local_files_only=True)
    config = model.config.get_text_config()
    model = (PeftModel.from_pretrained(model, str(folder)) if adapted else model).eval()

    def score(batch: MicroBatch) -> TokenScores:
        logits_btv = model(input_ids=batch.token_ids_bt, use_cache=False).logits
        return TokenScores(*scores(logits_btv[batch.row_n, batch.position_n - 1].float(), batch.targets_n))

    return probe(score, config, torch.device("cpu"))
