"""The real SmolLM2-135M-Instruct: converted from its package, it is the model that transformers reads."""

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden_local.models import smollm2

TEXTS = (
    "Hello world 1234 it's\n\n  fine 12,000.5",
    "def f(x):\n    return x  # été 🙂",
    "3 + 5 = 8\n4 - 7 = -3\n",
    "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n",
)
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


@pytest.fixture(scope="session", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smollm2.prepare(print, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", name="theirs")
def _theirs() -> dict[str, Any]:
    """How transformers loads the same file."""
    file = Path(str(distribution(smollm2.PACKAGE).locate_file(smollm2.FILE)))
    return {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


@pytest.fixture(scope="session", name="tokenizer")
def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_every_weight_is_the_one_that_transformers_reads(folder: Path, theirs: dict[str, Any]) -> None:
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    read = AutoModelForCausalLM.from_pretrained(**theirs, dtype=torch.float32).state_dict()
    assert converted.keys() == read.keys()
    assert [name for name in read if not torch.equal(converted[name], read[name])] == []


def test_text_is_cut_as_transformers_cuts_it(tokenizer: Any, theirs: dict[str, Any]) -> None:
    reference = AutoTokenizer.from_pretrained(**theirs)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == text


def test_the_chat_template_is_smollms(tokenizer: Any) -> None:
    said = [{"role": "user", "content": "Hi"}]
    shown = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert shown == SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert tokenizer.eos_token_id == 2


def test_it_speaks(folder: Path, tokenizer: Any) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    (ids,) = model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(ids).startswith("The capital of France is Paris")
