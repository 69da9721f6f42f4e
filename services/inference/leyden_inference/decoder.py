"""The forward pass of Qwen3 and Llama over a static key-value cache, a row of which is one sequence.

One function serves prefill and decode: every row brings some new tokens at positions of its own, writes
their keys and values and attends to what its row holds up to there. Shapes: b rows, p new tokens a row,
t attended positions, n = b * p, h kv heads, g query heads a kv head, d elements a head.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from leyden_inference.architecture import Architecture
from leyden_inference.weights import LayerWeights, Weights


class Cache:
    """Keys and values of ``rows`` sequences of up to ``context`` tokens: (layers, rows, h, positions, d).

    The memory is touched, and so taken from the machine, only as rows fill. One position more than the
    context is kept in each row: padding is written there and never attended to.
    """

    def __init__(self, arch: Architecture, rows: int, context: int) -> None:
        self.rows, self.context = rows, context
        shape = (arch.layers, rows, arch.kv_heads, context + 1, arch.head_dim)
        self.keys, self.values = _lazy_zeros(*shape), _lazy_zeros(*shape)
        self._flat_keys = self.keys.view(arch.layers, -1, arch.head_dim)
        self._flat_values = self.values.view(arch.layers, -1, arch.head_dim)
        starts = torch.arange(rows * arch.kv_heads) * (context + 1)
        self._starts = starts.view(rows, 1, arch.kv_heads)

    @property
    def padding(self) -> int:
        """The position that padding is written to."""
        return self.context

    def places(self, first: int, positions_bp: Tensor) -> Tensor:
        """Where new keys and values lie in the flattened cache: (n * h)."""
        return (self._starts[first : first + len(positions_bp)] + positions_bp.unsqueeze(-1)).view(-1)

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values, both (n * h, d), in their places."""
        self._flat_keys[layer].index_copy_(0, places, keys)
        self._flat_values[layer].index_copy_(0, places, values)

    def read(self, layer: int, first: int, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Views of the first ``length`` keys and values of some rows, both (b * h, t, d)."""
        keys, values = self.keys[layer, first : first + count], self.values[layer, first : first + count]
        return keys.flatten(0, 1)[:, :length], values.flatten(0, 1)[:, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another."""
        for part in (self.keys, self.values):
            part[:, target, :, :length] = part[:, source, :, :length]


class Decoder:
    """A model ready to run. It holds no sequence state; the cache does."""

    def __init__(self, arch: Architecture, weights: Weights, context: int | None = None) -> None:
        self.arch, self.weights = arch, weights
        self.context = min(context or arch.context, arch.context)
        self._eps = torch.tensor(arch.norm_eps)
        self._turns = _rotations(arch, self.context + 1)
        self._slots = torch.arange(self.context + 1)
        self._qk_width = (arch.heads + arch.kv_heads) * arch.head_dim
        self._q_width = arch.heads * arch.head_dim

    def cache(self, rows: int) -> Cache:
        """An empty cache of this model's shape."""
        return Cache(self.arch, rows, self.context)

    def forward(
        self, cache: Cache, first: int, tokens_bp: Tensor, positions_bp: Tensor, length: int
    ) -> Tensor:
        """Take in new tokens for rows ``first`` onwards; return hidden states (b, p, hidden).

        ``length`` is one more than the largest true position; padding carries ``cache.padding`` as position.
        """
        b, p = tokens_bp.shape
        x = F.embedding(tokens_bp.reshape(-1), self.weights.embedding)
        turns = self._turns[positions_bp.reshape(-1)]
        places = cache.places(first, positions_bp)
        mask = self._mask(positions_bp, length)
        for index, layer in enumerate(self.weights.layers):
            q, k, v = self._project(layer, x, turns)
            cache.write(index, places, k, v)
            keys, values = cache.read(index, first, b, length)
            mixed = self._attend(q, keys, values, mask, b, p)
            x = add_product(x, mixed, layer.out)
            hidden = rms_norm(x, self._eps) * layer.post_norm
            gate_up = product(hidden, layer.gate_up)
            width = self.arch.intermediate
            x = add_product(x, F.silu(gate_up[:, :width]).mul_(gate_up[:, width:]), layer.down)
        return x.view(b, p, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states (…, hidden)."""
        return product(rms_norm(hidden, self._eps) * self.weights.final_norm, self.weights.head)

    def _project(self, layer: LayerWeights, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, d), keys and values (n * h, d), rotated."""
        arch = self.arch
        n, d = x.shape[0], arch.head_dim
        qkv = product(rms_norm(x, self._eps) * layer.input_norm, layer.qkv)
        qk = qkv[:, : self._qk_width].reshape(n, -1, d)
        if layer.qk_norm is not None:
            qk = rms_norm(qk, self._eps) * layer.qk_norm
        pairs = torch.view_as_complex(qk.view(n, -1, d // 2, 2))
        qk = torch.view_as_real(pairs * turns).view(n, -1, d)
        keys = qk[:, arch.heads :].reshape(-1, d)
        values = qkv[:, self._qk_width :].reshape(-1, d)
        return qk[:, : arch.heads], keys, values

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, b: int, p: int) -> Tensor:
        """Attention of the new tokens over their rows: (n, heads * d).

        Query heads that share a kv head are stacked as further queries of it, so that nothing is repeated.
        """
        h, d = self.arch.kv_heads, self.arch.head_dim
        g = self.arch.heads // h
        grouped = q.reshape(b, p, h, g, d).permute(0, 2, 3, 1, 4).reshape(b * h, g * p, d)
        scores = torch.bmm(grouped, keys.transpose(1, 2))
        scores.view(b, h * g, p, -1).add_(mask)
        mixed = torch.bmm(torch.softmax(scores, dim=-1), values)
        return mixed.view(b, h, g, p, d).permute(0, 3, 1, 2, 4).reshape(b * p, h * g * d)

    def _mask(self, positions_bp: Tensor, length: int) -> Tensor:
        """Zero where a row's position may be attended to, minus infinity after it: (b, 1, p, t)."""
        later = self._slots[:length] > positions_bp[:, None, :, None]
        return torch.zeros(later.shape).masked_fill_(later, float("-inf"))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight`` in the weight's precision, as fp32."""
    return x @ weight if weight.dtype == x.dtype else (x.to(weight.dtype) @ weight).to(x.dtype)


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """``x + y @ weight``, in one operation where nothing has to be converted."""
    return torch.addmm(x, y, weight) if weight.dtype == x.dtype else x + product(y, weight)


def rms_norm(x: Tensor, eps: Tensor) -> Tensor:
    """``x / sqrt(mean(x²) + eps)`` over the last dimension, without the weight (Zhang and Sennrich, 2019)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.addcmul(eps, length, length, value=1.0 / x.shape[-1]).rsqrt_()


def _lazy_zeros(*shape: int) -> Tensor:
    """Zeros whose pages the operating system supplies on first use.

    Unwritten positions are masked, not skipped, so they must hold finite numbers.
    """
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))


def _rotations(arch: Architecture, positions: int) -> Tensor:
    """``exp(i * position * theta^(-2j/d))`` for j < d/2 (Su et al., 2021): (positions, 1, d/2) complex."""
    exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.int64).float() / arch.head_dim
    angles = torch.outer(torch.arange(positions).float(), 1.0 / arch.rope_theta**exponents)
    return torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
