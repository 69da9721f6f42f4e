"""The forward pass against transformers, over random tiny models of both families."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from leyden_inference.architecture import Architecture
from leyden_inference.decoder import Decoder
from leyden_inference.errors import UnsupportedModel
from leyden_inference.weights import fuse, read_tensors

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.2,
}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    (
        "qwen3",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
    ),
    (
        "qwen3",
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False},
    ),
    ("llama", {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    (
        "llama",
        {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    ),
]


def saved(folder: Path, family: str, shape: dict[str, Any]) -> Any:
    """A random model of the family, written to ``folder`` and read back by transformers."""
    torch.manual_seed(len(str(shape)))
    kinds: dict[str, Any] = {
        "qwen3": (Qwen3ForCausalLM, Qwen3Config),
        "llama": (LlamaForCausalLM, LlamaConfig),
    }
    kind, config = kinds[family]
    model = kind(config(**TINY, **shape))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    read: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return read.eval()


def decoder_of(folder: Path) -> Decoder:
    """Our decoder of the same folder."""
    arch = Architecture.load(folder)
    return Decoder(arch, fuse(read_tensors(folder), arch))


def reference(model: Any, ids: list[int]) -> Tensor:
    """transformers' logits of one sequence: (tokens, vocabulary)."""
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([ids])).logits[0]
    return logits


@pytest.mark.parametrize(("family", "shape"), SHAPES)
def test_logits_equal_transformers_in_one_ragged_prefill(
    tmp_path: Path, family: str, shape: dict[str, Any]
) -> None:
    model, decoder = saved(tmp_path, family, shape), decoder_of(tmp_path)
    prompts = [torch.randint(0, 97, (length,)).tolist() for length in (5, 17, 11)]
    cache = decoder.cache(rows=5)
    cache.keys.fill_(7.0)
    cache.values.fill_(7.0)
    tokens = torch.zeros(3, 17, dtype=torch.int64)
    positions = torch.full((3, 17), cache.padding)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
        positions[row, : len(prompt)] = torch.arange(len(prompt))
    with torch.inference_mode():
        logits = decoder.logits(decoder.forward(cache, 1, tokens, positions, 17))
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row, : len(prompt)], reference(model, prompt), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("family", "shape"), SHAPES)
def test_decoding_token_by_token_after_a_moved_row_equals_one_pass(
    tmp_path: Path, family: str, shape: dict[str, Any]
) -> None:
    model, decoder = saved(tmp_path, family, shape), decoder_of(tmp_path)
    ids = torch.randint(0, 97, (2, 40))
    cache = decoder.cache(rows=4)
    starts = [6, 9]
    with torch.inference_mode():
        for row, start in enumerate(starts):
            positions = torch.arange(start).view(1, -1)
            decoder.forward(cache, row + 2, ids[row : row + 1, :start], positions, start)
        cache.move(2, 0, starts[0])
        cache.move(3, 1, starts[1])
        got: list[list[Tensor]] = [[], []]
        for step in range(20):
            now = torch.tensor([[start + step] for start in starts])
            logits = decoder.logits(decoder.forward(cache, 0, ids.gather(1, now), now, starts[1] + step + 1))
            for row in range(2):
                got[row].append(logits[row, 0])
    for row, start in enumerate(starts):
        expected = reference(model, ids[row, : start + 20].tolist())[start:]
        torch.testing.assert_close(torch.stack(got[row]), expected, atol=1e-4, rtol=0)


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    model = saved(tmp_path / "whole", *SHAPES[0])
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    whole, shards = (read_tensors(tmp_path / name) for name in ("whole", "shards"))
    assert whole.keys() == shards.keys()
    assert all(torch.equal(whole[name], shards[name]) for name in whole)


GOOD = {**TINY, "model_type": "qwen3", "num_attention_heads": 4, "hidden_act": "silu"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"vocab_size": None}, "config.json"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_configuration_it_cannot_run_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        Architecture.of({**GOOD, **change})


def test_both_spellings_of_the_rotary_base_are_read() -> None:
    assert Architecture.of({**GOOD, "rope_theta": 5e5}).rope_theta == 5e5
    assert Architecture.of({**GOOD, "rope_parameters": {"rope_theta": 1e6}}).rope_theta == 1e6
    assert Architecture.of(GOOD).rope_theta == 1e4


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    saved(tmp_path, *SHAPES[0])
    arch, tensors = Architecture.load(tmp_path), read_tensors(tmp_path)
    lacking = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(UnsupportedModel, match=r"model\.norm\.weight"):
        fuse(lacking, arch)
    with pytest.raises(UnsupportedModel, match=r"embed_tokens.*shape"):
        fuse({**tensors, "model.embed_tokens.weight": torch.zeros(3, 3)}, arch)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(("family", "shape"), SHAPES)
def test_products_in_bf16_stay_close_to_fp32(tmp_path: Path, family: str, shape: dict[str, Any]) -> None:
    """bf16 keeps 8 bits, so a product is off by about 1/256 of its size, and so are probabilities."""
    model = saved(tmp_path, family, shape)
    arch = Architecture.load(tmp_path)
    weights = fuse(read_tensors(tmp_path), arch, torch.bfloat16)
    assert {weights.head.dtype, weights.layers[0].qkv.dtype} == {torch.bfloat16}
    assert {weights.embedding.dtype, weights.final_norm.dtype} == {torch.float32}
    decoder, ids = Decoder(arch, weights), list(range(3, 15))
    tokens, positions = torch.tensor([ids]), torch.arange(len(ids))[None]
    hidden = decoder.forward(decoder.cache(1), 0, tokens, positions, len(ids))
    logits = decoder.logits(hidden)[0]
    assert logits.dtype == torch.float32
    expected, found = (values.softmax(-1) for values in (reference(model, ids), logits))
    assert 0 < (found - expected).abs().max() < 0.03
