"""Our micro-batches as verl takes them: rows as jagged tensors, and completions as a padded matrix."""

from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.dataset_utils import DatasetPadMode

from leyden_learner.collate import MicroBatch


def tensordict(batch: MicroBatch, *, packing: bool) -> Any:
    """The rows of one pass, which lie end to end in ``batch``; verl pads them itself unless ``packing``."""
    lengths = torch.tensor(batch.row_lengths, device=batch.token_ids_bt.device)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    sampled_t = torch.zeros_like(batch.token_ids_bt[0])
    sampled_t[batch.position_n] = 1
    rows = {
        "input_ids": batch.token_ids_bt[0],
        "position_ids": batch.positions_bt[0],
        "loss_mask": sampled_t,
    }
    return tu.get_tensordict(
        {name: torch.nested.nested_tensor_from_jagged(values, offsets) for name, values in rows.items()},
        {
            "temperature": 1.0,
            "calculate_entropy": True,
            "use_dynamic_bsz": False,
            "micro_batch_size_per_gpu": len(lengths),
            "use_remove_padding": packing,
            "use_fused_kernels": False,
            "pad_mode": DatasetPadMode.NO_PADDING,
        },
    )


def sampled(values: Tensor, batch: MicroBatch) -> Tensor:
    """What an engine gave for every token, at the sampled ones: it stands where they were predicted."""
    return values.values()[batch.position_n - 1]


class Completions:
    """Where the sampled tokens of a pass stand when every completion is a row."""

    def __init__(self, sequence_n: Tensor) -> None:
        counts = torch.bincount(sequence_n)
        starts = counts.cumsum(0) - counts
        self._place = (
            sequence_n,
            torch.arange(len(sequence_n), device=sequence_n.device) - starts[sequence_n],
        )
        self._shape = (len(counts), int(counts.max()))

    def matrix(self, values_n: Tensor) -> Tensor:
        """One row a completion, 0 behind its end."""
        return values_n.new_zeros(self._shape).index_put(self._place, values_n)

    def flat(self, values_st: Tensor) -> Tensor:
        """Back again."""
        return values_st[self._place]
