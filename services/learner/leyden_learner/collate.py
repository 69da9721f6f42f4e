"""Token rows to tensors. Only sampled tokens carry loss, so what belongs to them is flat, not padded.

Shapes: ``b`` rows, ``t`` positions of the longest row, ``n`` sampled tokens of all rows, in row order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from leyden_learner.objective.aggregation import Aggregation
from leyden_schemas import TokenRow, TrainingSample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass, padded on the right, where causal attention never looks."""

    token_ids_bt: Tensor
    row_n: Tensor
    position_n: Tensor
    sampler_logprobs_n: Tensor
    advantages_n: Tensor
    weights_n: Tensor
    sequence_n: Tensor
    """Number of the completion that sampled the token, from 0."""

    @property
    def targets_n(self) -> Tensor:
        """Ids of the sampled tokens."""
        return self.token_ids_bt[self.row_n, self.position_n]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True, slots=True)
class WeightedRow:
    """A row and what each of its sampled tokens counts."""

    row: TokenRow
    weight: float


def weigh(samples: Sequence[TrainingSample], aggregation: Aggregation) -> list[WeightedRow]:
    """The rows of a step, longest first. The order depends on the samples alone, not on how they arrived."""
    ordered = sorted(samples, key=lambda sample: sample.rollout_id)
    weights = aggregation([[_sampled(row) for row in sample.rows] for sample in ordered])
    rows = [
        WeightedRow(row, weight)
        for sample, of_rows in zip(ordered, weights, strict=True)
        for row, weight in zip(sample.rows, of_rows, strict=True)
    ]
    return sorted(rows, key=lambda item: len(item.row.token_ids), reverse=True)


def _sampled(row: TokenRow) -> int:
    return sum(len(span.logprobs) for span in row.spans)


def split(rows: Sequence[WeightedRow], token_budget: int) -> Iterator[list[WeightedRow]]:
    """Rows, longest first, in portions whose padded size stays within the budget; a longer row goes alone."""
    portion: list[WeightedRow] = []
    for row in rows:
        width = len(portion[0].row.token_ids) if portion else 0
        if portion and width * (len(portion) + 1) > token_budget:
            yield portion
            portion = []
        portion.append(row)
    if portion:
        yield portion


def collate(rows: Sequence[WeightedRow]) -> MicroBatch:
    """Tensors of some rows. The padding id is 0; nothing is ever computed from it."""
    width = max(len(item.row.token_ids) for item in rows)
    token_ids_bt = torch.zeros((len(rows), width), dtype=torch.long)
    row_n: list[int] = []
    position_n: list[int] = []
    sampler_n: list[float] = []
    advantages_n: list[float] = []
    weights_n: list[float] = []
    sequence_n: list[int] = []
    sequences = 0
    for index, item in enumerate(rows):
        token_ids_bt[index, : len(item.row.token_ids)] = torch.tensor(item.row.token_ids)
        for span in item.row.spans:
            count = len(span.logprobs)
            row_n += [index] * count
            position_n += range(span.start, span.stop)
            sampler_n += span.logprobs
            advantages_n += [span.advantage] * count
            weights_n += [item.weight] * count
            sequence_n += [sequences] * count
            sequences += 1
    return MicroBatch(
        token_ids_bt=token_ids_bt,
        row_n=torch.tensor(row_n),
        position_n=torch.tensor(position_n),
        sampler_logprobs_n=torch.tensor(sampler_n, dtype=torch.float32),
        advantages_n=torch.tensor(advantages_n, dtype=torch.float32),
        weights_n=torch.tensor(weights_n, dtype=torch.float32),
        sequence_n=torch.tensor(sequence_n),
    )
