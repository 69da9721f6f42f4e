"""Attention over rows that lie end to end in one sequence, each looking at itself alone.

Registered with transformers under the name ``leyden_rows``. Gives what padding gives, to
rounding, and computes nothing for what is not there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "leyden_rows"


def register() -> str:
    """Make it known to transformers; its name.

    It is left out of what is compiled, which would be done anew for every row length.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _uncompiled)
    return NAME


def attend(
    module: Any,
    query_bhtd: Tensor,
    key_bhtd: Tensor,
    value_bhtd: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    row_lengths: Tensor | Sequence[int] | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of the rows, whose lengths add up to ``t``; without lengths ``t`` is one.

    Gives ``(b, t, h, d)``, as transformers expects. ``attention_mask`` is None: no row begins with padding.
    Raises ``ValueError`` for attention of other kinds.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("attention with capped scores or sinks: set LEYDEN_LEARNER_PACKING=false")
    lengths = [query_bhtd.shape[2]] if row_lengths is None else [int(length) for length in row_lengths]
    parts = (torch.split(part, lengths, dim=2) for part in (query_bhtd, key_bhtd, value_bhtd))
    attended = [_row(*row, scaling=scaling, window=sliding_window) for row in zip(*parts, strict=True)]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


_uncompiled = torch.compiler.disable(attend)  # type: ignore[no-untyped-call]


def _row(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int | None) -> Tensor:
    length = query.shape[2]
    mask = None if window is None or window >= length else _band(length, window, query.device)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Position i sees i - window + 1 to i."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen & ~seen.tril(-window)
