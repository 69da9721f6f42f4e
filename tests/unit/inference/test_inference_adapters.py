"""Adapters of peft in the built-in engine: the same answers as the model that peft makes of them."""

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from leyden_inference.errors import LoadFailed
from leyden_inference.loading import Loader
from leyden_inference.probing import answers, computed_probe
from leyden_platform.artifacts import verify_artifact
from leyden_platform.clock import SystemClock
from leyden_platform.probe import distance, write_probe
from leyden_schemas import ModelPublished, WeightsKind

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"


@pytest.fixture(params=[False, True], ids=["alpha/r", "alpha/sqrt(r)"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """An adapter with weights, as peft saves it; and the whole model that it makes."""
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_pretrained(SEED, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", use_rslora=request.param)
    config.task_type = "CAUSAL_LM"
    model: Any = get_peft_model(base, config)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    assert isinstance(model, PeftModel)
    model.save_pretrained(str(tmp_path / "adapter"))
    shutil.copytree(SEED, tmp_path / "whole")
    model.merge_and_unload().save_pretrained(str(tmp_path / "whole"))
    return tmp_path / "adapter", tmp_path / "whole"


def published(folder: Path, version: int, **changes: Any) -> ModelPublished:
    kind = changes.get("kind", WeightsKind.FULL)
    fields = {"event_id": uuid4(), "policy": "calculator", "version": version}
    fields |= {"occurred_at": SystemClock().now(), "artifact": folder.as_uri()}
    return ModelPublished.model_validate(fields | {"digest": verify_artifact(folder, kind)} | changes)


def load(folder: Path, **changes: Any) -> Any:
    message = published(folder, 1, kind=WeightsKind.LORA, parent=0)
    return Loader().load_published(message.model_copy(update=changes), published(SEED, 0))


def test_an_adapter_answers_as_the_model_that_it_makes(adapter: tuple[Path, Path]) -> None:
    folder, whole = adapter
    expected, before = computed_probe(whole), computed_probe(SEED)
    write_probe(folder, expected)
    served = answers(load(folder).decoder, expected.token_ids)
    assert distance(expected.logprobs, served) < 1e-4
    assert distance(before.logprobs, served) > 1e-2


def test_the_wrong_probe_is_noticed(adapter: tuple[Path, Path]) -> None:
    folder, _ = adapter
    write_probe(folder, computed_probe(SEED))
    with pytest.raises(LoadFailed, match="nats off") as raised:
        load(folder)
    assert raised.value.reason == "probe"


def test_what_cannot_be_added_is_refused_by_name(adapter: tuple[Path, Path]) -> None:
    folder, _ = adapter
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    for change, words in [({"use_dora": True}, "use_dora"), ({"r": 0}, "rank"), ({"bias": "all"}, "bias")]:
        file.write_text(json.dumps(config | change))
        with pytest.raises(LoadFailed, match=words) as raised:
            load(folder)
        assert raised.value.reason == "unsupported"
    file.write_text(json.dumps(config))
    weights = load_file(folder / "adapter_model.safetensors")
    for missing in ("lora_A", "lora_B"):
        half = {name: value for name, value in weights.items() if missing not in name}
        save_file(half, folder / "adapter_model.safetensors")
        with pytest.raises(LoadFailed, match="half of which"):
            load(folder)


def test_an_adapter_of_another_rank_than_it_says_is_refused(adapter: tuple[Path, Path]) -> None:
    """Its scale would be another one, and without a probe nobody would notice."""
    folder, _ = adapter
    file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config, tensors = json.loads(file.read_text()), load_file(weights)
    for change, words in [({"r": 8}, "rank 8"), ({"r": -4}, "rank"), ({"lora_alpha": float("nan")}, "alpha")]:
        file.write_text(json.dumps(config | change))
        with pytest.raises(LoadFailed, match=words):
            load(folder)
    file.write_text(json.dumps(config))
    halves = {name: value[:3] if "lora_A" in name else value for name, value in tensors.items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, weights)
    with pytest.raises(LoadFailed, match="by a product of") as raised:
        load(folder)
    assert raised.value.reason == "unsupported"


def test_an_adapter_needs_the_version_it_lies_over(adapter: tuple[Path, Path]) -> None:
    folder, _ = adapter
    message = published(folder, 1, kind=WeightsKind.LORA, parent=0)
    with pytest.raises(LoadFailed, match="over version 0, of which no full weights"):
        Loader().load_published(message)
    with pytest.raises(LoadFailed, match="registry announced") as raised:
        Loader().load_published(message, published(SEED, 0, digest="0" * 64))
    assert raised.value.reason == "digest"
