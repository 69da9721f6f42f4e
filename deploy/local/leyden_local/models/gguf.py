"""From a Llama in GGUF to a Hugging Face folder: weights in fp32, tokenizer, chat template, configurations.

Written for byte-level BPE vocabularies whose digits stand alone (``tokenizer.ggml.pre`` ``smollm``); others
are refused, because a tokenizer that cuts text differently makes a worse model without an error.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # type: ignore[import-untyped]

Fp32 = NDArray[np.float32]

CONTROL = 3
"""The ``token_type`` of tokens that are no text."""

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_DIGITS_ALONE = "smollm"


class UnsupportedGguf(ValueError):
    """The file is not a model that this conversion knows; the text says why."""


def convert(file: Path, folder: Path, progress: Callable[[int, int], None]) -> None:
    """Write the Hugging Face files into ``folder``, calling ``progress`` with tensors done and their number.

    Raises ``UnsupportedGguf``, and ``OSError``.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    check(facts)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    config = configuration(facts) | {"tie_word_embeddings": tied}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation(facts))
    _write_json(folder / "tokenizer_config.json", tokenizer_configuration(facts))
    (folder / "chat_template.jinja").write_text(facts["tokenizer.chat_template"])
    make_tokenizer(facts).save(str(folder / "tokenizer.json"))
    tensors = dict(_tensors(reader.tensors, config, progress))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def check(facts: dict[str, Any]) -> None:
    """Refuse what would be converted wrongly. Raises ``UnsupportedGguf``."""
    for name, known in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", _DIGITS_ALONE),
    ):
        if facts.get(name) != known:
            raise UnsupportedGguf(f"{name} is {facts.get(name)!r}; this conversion knows {known!r} only")
    for name in ("tokenizer.chat_template", "tokenizer.ggml.merges", "llama.attention.head_count_kv"):
        if name not in facts:
            raise UnsupportedGguf(f"the file has no {name}")


def configuration(facts: dict[str, Any]) -> dict[str, Any]:
    """``config.json``. It says nothing of quantisation: what is written is plain fp32."""
    heads, hidden = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": hidden,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": facts["llama.rope.freq_base"],
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def generation(facts: dict[str, Any]) -> dict[str, Any]:
    """``generation_config.json``: plain sampling, so that what is served is the distribution trained."""
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def tokenizer_configuration(facts: dict[str, Any]) -> dict[str, Any]:
    """``tokenizer_config.json``, in the words that transformers 4 and 5 both know."""
    tokens = facts["tokenizer.ggml.tokens"]
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
    } | {
        f"{name}_token": tokens[facts[f"tokenizer.ggml.{theirs}_token_id"]] for name, theirs in named.items()
    }


def make_tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """A byte-level BPE in front of which every digit stands alone."""
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
    control = [AddedToken(token, normalized=False) for token, kind in kinds if kind == CONTROL]
    tokenizer.add_special_tokens(control)
    return tokenizer


def tensor_name(name: str) -> str:
    """What Hugging Face calls a tensor of a GGUF Llama. Raises ``UnsupportedGguf``."""
    if name in _OUTER:
        return _OUTER[name]
    blk, layer, part, kind = [*name.split("."), "", "", ""][:4]
    if blk != "blk" or part not in _BLOCK or kind != "weight":
        raise UnsupportedGguf(f"the file has a tensor {name}, which a Llama has not")
    return f"model.layers.{layer}.{_BLOCK[part]}.weight"


def unpaired(weight: Fp32, heads: int) -> Fp32:
    """Rows of queries or keys in Hugging Face's order.

    GGUF puts the two numbers that a rotary position turns side by side; Hugging Face keeps the first ones of
    a head before the second ones.
    """
    rows, columns = weight.shape
    halves = weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
    return np.ascontiguousarray(halves.reshape(rows, columns))


def _tensors(
    tensors: list[Any], config: dict[str, Any], progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Fp32]]:
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for done, tensor in enumerate(tensors, start=1):
        weight: Fp32 = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        part = [*tensor.name.split("."), "", ""][2]
        yield tensor_name(tensor.name), unpaired(weight, heads[part]) if part in heads else weight
        progress(done, len(tensors))


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
