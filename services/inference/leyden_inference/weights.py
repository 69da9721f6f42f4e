"""Reading a checkpoint's safetensors into the fused, transposed tensors that the decoder multiplies with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from leyden_inference.architecture import Architecture, read_json
from leyden_inference.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Matrices are (inputs, outputs), row-major, so that ``x @ w`` needs no transposition."""

    input_norm: Tensor
    qkv: Tensor
    qk_norm: Tensor | None
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a model. Matrices have the precision of the products, everything else is fp32."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    head: Tensor


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of ``model.safetensors``, or of the shards of its index. Raises ``UnsupportedModel``."""
    index = folder / "model.safetensors.index.json"
    single = "model.safetensors"
    whole = (folder / single).exists() or not index.exists()
    names = [single] if whole else sorted(set(read_json(index)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise UnsupportedModel(f"cannot read {name}: {error}") from None
    return tensors


def fuse(tensors: dict[str, Tensor], arch: Architecture, precision: torch.dtype = torch.float32) -> Weights:
    """Arrange Hugging Face tensors for the decoder.

    Query and key rows are reordered so that the two numbers a rotary position turns lie side by side: a
    permutation of a head's dimensions leaves ``q·k`` as it is, and the rotation becomes one complex product.
    The 1/sqrt(head_dim) of attention is folded into the queries.
    Raises ``UnsupportedModel`` when a tensor is missing or has another shape than the configuration says.
    """

    def take(name: str, *shape: int) -> Tensor:
        if name not in tensors:
            raise UnsupportedModel(f"the weights have no tensor {name}")
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)}, config.json implies {shape}")
        return tensor.to(torch.float32)

    embedding = take("model.embed_tokens.weight", arch.vocabulary, arch.hidden).clone()
    head = embedding if arch.tied else take("lm_head.weight", arch.vocabulary, arch.hidden)
    return Weights(
        embedding=embedding,
        layers=tuple(_layer(take, arch, f"model.layers.{index}.", precision) for index in range(arch.layers)),
        final_norm=take("model.norm.weight", arch.hidden).clone(),
        head=_factor(head, precision),
    )


def _layer(
    take: Callable[..., Tensor], arch: Architecture, prefix: str, precision: torch.dtype
) -> LayerWeights:
    width, kv_width = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    scale = arch.head_dim**-0.5
    q = take(prefix + "self_attn.q_proj.weight", width, arch.hidden)
    k = take(prefix + "self_attn.k_proj.weight", kv_width, arch.hidden)
    v = take(prefix + "self_attn.v_proj.weight", kv_width, arch.hidden)
    qk_norm = None
    if arch.normalises_qk:
        q_norm = _pair(take(prefix + "self_attn.q_norm.weight", arch.head_dim), arch.head_dim) * scale
        k_norm = _pair(take(prefix + "self_attn.k_norm.weight", arch.head_dim), arch.head_dim)
        qk_norm = torch.stack([q_norm] * arch.heads + [k_norm] * arch.kv_heads)
    else:
        q = q * scale
    gate = take(prefix + "mlp.gate_proj.weight", arch.intermediate, arch.hidden)
    up = take(prefix + "mlp.up_proj.weight", arch.intermediate, arch.hidden)
    return LayerWeights(
        input_norm=take(prefix + "input_layernorm.weight", arch.hidden).clone(),
        qkv=_factor(torch.cat([_pair(q, arch.head_dim), _pair(k, arch.head_dim), v]), precision),
        qk_norm=qk_norm,
        out=_factor(take(prefix + "self_attn.o_proj.weight", arch.hidden, width), precision),
        post_norm=take(prefix + "post_attention_layernorm.weight", arch.hidden).clone(),
        gate_up=_factor(torch.cat([gate, up]), precision),
        down=_factor(take(prefix + "mlp.down_proj.weight", arch.hidden, arch.intermediate), precision),
    )


def _factor(weight: Tensor, precision: torch.dtype) -> Tensor:
    """A linear layer's weight as the right side of a product."""
    return weight.t().to(precision).contiguous()


def _pair(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder each head's rows from (first half, second half) to (first, second) pairs."""
    heads = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return heads.transpose(1, 2).reshape(weight.shape).contiguous()
