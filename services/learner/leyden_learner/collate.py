"""Token rows to tensors. Only sampled tokens carry loss, so what belongs to them is flat, not padded.

Rows are packed end to end in one sequence or padded to the longest, the same results from more work. Shapes:
``b`` sequences (1, or the rows), ``t`` positions of a sequence, ``n`` sampled tokens of all rows in order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from leyden_learner.objective.aggregation import Aggregation
from leyden_schemas import TokenRow, TrainingSample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward pass: packed with their lengths, or padded on the right, where nothing ever looks.

    ``row_n`` and ``position_n`` say where in ``token_ids_bt`` a sampled token lies.
    """

    token_ids_bt: Tensor
    positions_bt: Tensor
    row_n: Tensor
    position_n: Tensor
    sampler_logprobs_n: Tensor
    advantages_n: Tensor
    weights_n: Tensor
    sequence_n: Tensor
    """Number of the completion that sampled the token, from 0."""
    row_lengths: tuple[int, ...] | None = None
    """Of packed rows, in order; None when they are padded."""
    idle: bool = False
    """Whether it only keeps a rank in step with the others: its token counts nothing."""

    @property
    def targets_n(self) -> Tensor:
        """Ids of the sampled tokens."""
        return self.token_ids_bt[self.row_n, self.position_n]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


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


def split(
    rows: Sequence[WeightedRow], token_budget: int, *, packed: bool = True
) -> Iterator[list[WeightedRow]]:
    """Rows, longest first, in portions whose size, padding included, is within the budget.

    A row that is longer goes alone.
    """
    portion: list[WeightedRow] = []
    size = 0
    for row in rows:
        length = len(row.row.token_ids)
        grown = size + length if packed else (len(portion) + 1) * len((portion or [row])[0].row.token_ids)
        if portion and grown > token_budget:
            yield portion
            portion, grown = [], length
        portion.append(row)
        size = grown
    if portion:
        yield portion


def share_out(rows: Sequence[WeightedRow], shares: int) -> list[list[WeightedRow]]:
    """Rows, longest first, in shares of about as many tokens: each goes where there are fewest so far.

    No share has more tokens than another by more than the longest row. Each is longest first or empty.
    """
    shared: list[list[WeightedRow]] = [[] for _ in range(shares)]
    tokens = [0] * shares
    for row in rows:
        least = tokens.index(min(tokens))
        shared[least].append(row)
        tokens[least] += len(row.row.token_ids)
    return shared


def weightless(token_ids: Sequence[int]) -> MicroBatch:
    """One row, every token of which but the first is scored and counts nothing."""
    count = len(token_ids) - 1
    return MicroBatch(
        token_ids_bt=torch.tensor([token_ids]),
        positions_bt=torch.arange(count + 1)[None],
        row_n=torch.zeros(count, dtype=torch.long),
        position_n=torch.arange(1, count + 1),
        sampler_logprobs_n=torch.zeros(count),
        advantages_n=torch.zeros(count),
        weights_n=torch.zeros(count),
        sequence_n=torch.zeros(count, dtype=torch.long),
    )


def idle() -> MicroBatch:
    """A pass that computes a loss of 0, for a rank that has nothing left to do while others have."""
    return replace(weightless([0, 0]), idle=True)


def collate(rows: Sequence[WeightedRow], *, packed: bool = True) -> MicroBatch:
    """Tensors of some rows. The padding id is 0; nothing is ever computed from it."""
    lengths = [len(item.row.token_ids) for item in rows]
    width = sum(lengths) if packed else max(lengths)
    token_ids_bt = torch.zeros((1 if packed else len(rows), width), dtype=torch.long)
    positions_bt = torch.zeros_like(token_ids_bt) if packed else torch.arange(width).expand(len(rows), width)
    row_n: list[int] = []
    position_n: list[int] = []
    sampler_n: list[float] = []
    advantages_n: list[float] = []
    weights_n: list[float] = []
    sequence_n: list[int] = []
    sequences = 0
    start = 0
    for index, (item, length) in enumerate(zip(rows, lengths, strict=True)):
        sequence = 0 if packed else index
        token_ids_bt[sequence, start : start + length] = torch.tensor(item.row.token_ids)
        if packed:
            positions_bt[sequence, start : start + length] = torch.arange(length)
        for span in item.row.spans:
            count = len(span.logprobs)
            row_n += [sequence] * count
            position_n += range(start + span.start, start + span.stop)
            sampler_n += span.logprobs
            advantages_n += [span.advantage] * count
            weights_n += [item.weight] * count
            sequence_n += [sequences] * count
            sequences += 1
        start += length if packed else 0
    return MicroBatch(
        token_ids_bt=token_ids_bt,
        positions_bt=positions_bt,
        row_n=torch.tensor(row_n),
        position_n=torch.tensor(position_n),
        sampler_logprobs_n=torch.tensor(sampler_n, dtype=torch.float32),
        advantages_n=torch.tensor(advantages_n, dtype=torch.float32),
        weights_n=torch.tensor(weights_n, dtype=torch.float32),
        sequence_n=torch.tensor(sequence_n),
        row_lengths=tuple(lengths) if packed else None,
    )
