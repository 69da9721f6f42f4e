"""A GGUF model becomes a Hugging Face folder that computes the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_gguf import HEADS, TEMPLATE, paired, random_llama, vocabulary, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden_local.models.gguf import UnsupportedGguf, convert, tensor_name, unpaired
from leyden_platform.artifacts import verify_artifact


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    write_gguf(folder.parent / "tiny.gguf", random_llama())
    convert(folder.parent / "tiny.gguf", folder, lambda _done, _total: None)
    return folder


def test_the_folder_is_complete_and_computes_what_the_model_did(folder: Path) -> None:
    assert verify_artifact(folder)
    ids_bt = torch.arange(3, 23)[None]
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(converted(ids_bt).logits, random_llama()(ids_bt).logits)


def test_the_configuration_says_what_the_file_did(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["vocab_size"]) == (
        "llama",
        "float32",
        len(vocabulary()),
    )
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 8)
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (1e-5, 1e5, True)
    assert "quantization_config" not in config
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"], generation["top_k"]) == (2, 1.0, 0)


def test_the_tokenizer_merges_letters_and_leaves_digits_alone(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode(" the 12<|im_end|>"))
    assert pieces == ["Ġthe", "Ġ", "1", "2", "<|im_end|>"]
    text = "Zwölf\n 12 + 7 <|im_start|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "Zwölf\n 12 + 7 "
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == TEMPLATE
    shown = tokenizer.apply_chat_template([{"role": "user", "content": "1"}], tokenize=False)
    assert shown == "<|im_start|>user\n1<|im_end|>\n"


def test_rows_of_a_head_are_put_back_by_hand() -> None:
    weight = np.array([[0], [4], [1], [5], [2], [6], [3], [7]], dtype=np.float32)
    assert unpaired(weight, 1).ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert unpaired(weight, 2).ravel().tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_putting_rows_back_undoes_what_llama_cpp_does() -> None:
    weight = np.random.default_rng(0).normal(size=(HEADS * 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(unpaired(paired(weight, HEADS), HEADS), weight)


def test_names_are_those_of_hugging_face() -> None:
    assert tensor_name("blk.12.ffn_down.weight") == "model.layers.12.mlp.down_proj.weight"
    assert tensor_name("output.weight") == "lm_head.weight"
    for unknown in ("blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "rope_freqs.weight"):
        with pytest.raises(UnsupportedGguf, match=unknown):
            tensor_name(unknown)


@pytest.mark.parametrize(
    ("field", "value"), [("tokenizer__ggml__pre", "llama-bpe"), ("tokenizer__ggml__model", "llama")]
)
def test_another_tokenizer_is_refused_not_guessed(tmp_path: Path, field: str, value: str) -> None:
    write_gguf(tmp_path / "other.gguf", random_llama(), **{field: value})
    with pytest.raises(UnsupportedGguf, match=value):
        convert(tmp_path / "other.gguf", tmp_path, lambda _done, _total: None)


def test_progress_is_told_to_the_last_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", random_llama())
    told: list[tuple[int, int]] = []
    convert(tmp_path / "tiny.gguf", tmp_path, lambda done, total: told.append((done, total)))
    assert told == [(n, 20) for n in range(1, 21)]
