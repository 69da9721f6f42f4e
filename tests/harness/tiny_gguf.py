"""A random Llama of a few thousand weights as llama.cpp would write it, and the same in transformers."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import pre_tokenizers  # type: ignore[import-untyped]
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "1 2"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
HEADS, KV_HEADS = 4, 2


def vocabulary() -> list[str]:
    """Special tokens, every byte, and what the merges make."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *alphabet, *("".join(pair.split(" ")) for pair in MERGES)]


def random_llama() -> Any:
    """The model that the file holds."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call]


def write_gguf(file: Path, model: Any, **changes: str) -> None:
    """The model in a GGUF file; ``changes`` replace text fields of it, with ``__`` for the dots."""
    writer = gguf.GGUFWriter(file, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    texts = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.chat_template": TEMPLATE,
    } | {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in texts.items():
        writer.add_string(name, value)
    tokens = vocabulary()
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    for name, token in {"bos": 1, "eos": 2, "unknown": 0, "padding": 2}.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for name, weight in _tensors(model):
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model: Any) -> list[tuple[str, NDArray[np.float32]]]:
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    found = [("token_embd.weight", state["model.embed_tokens.weight"])]
    found.append(("output_norm.weight", state["model.norm.weight"]))
    for layer in range(model.config.num_hidden_layers):
        theirs, ours = f"blk.{layer}.", f"model.layers.{layer}."
        found += [
            (theirs + "attn_norm.weight", state[ours + "input_layernorm.weight"]),
            (theirs + "attn_q.weight", paired(state[ours + "self_attn.q_proj.weight"], HEADS)),
            (theirs + "attn_k.weight", paired(state[ours + "self_attn.k_proj.weight"], KV_HEADS)),
            (theirs + "attn_v.weight", state[ours + "self_attn.v_proj.weight"]),
            (theirs + "attn_output.weight", state[ours + "self_attn.o_proj.weight"]),
            (theirs + "ffn_norm.weight", state[ours + "post_attention_layernorm.weight"]),
            (theirs + "ffn_gate.weight", state[ours + "mlp.gate_proj.weight"]),
            (theirs + "ffn_up.weight", state[ours + "mlp.up_proj.weight"]),
            (theirs + "ffn_down.weight", state[ours + "mlp.down_proj.weight"]),
        ]
    return found


def paired(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Row i of a head's first half next to row i of its second, as llama.cpp rotates them."""
    rows = []
    for head in np.split(weight, heads):
        first, second = np.split(head, 2)
        for a, b in zip(first, second, strict=True):
            rows += [a, b]
    return np.stack(rows)
