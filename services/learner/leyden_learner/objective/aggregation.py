"""How much each sampled token counts; how a rollout was cut into rows should not matter.

Each takes the sampled tokens of every row of every rollout and gives the weight of one token of that row. A
rollout or a row without sampled tokens has no token to weigh: it gets 0 and takes nothing from the others.
"""

from collections.abc import Callable, Sequence

RowTokens = Sequence[Sequence[int]]
"""Sampled tokens by rollout, by row."""

RowWeights = list[list[float]]

Aggregation = Callable[[RowTokens], RowWeights]


def rollout_mean(tokens: RowTokens) -> RowWeights:
    """1 / (sampled tokens of its rollout * number of rollouts): every rollout counts the same (GRPO).

    The weights of all tokens add up to 1, however many rows a rollout is fragmented into. Dividing by the
    number of rows instead would shrink the step with every fragment.
    """
    rollouts = sum(any(rows) for rows in tokens)
    return [[_share(sum(rows) * rollouts)] * len(rows) for rows in tokens]


def token_mean(tokens: RowTokens) -> RowWeights:
    """1 / all sampled tokens: every token counts the same (DAPO)."""
    total = sum(map(sum, tokens))
    return [[_share(total)] * len(rows) for rows in tokens]


def sequence_mean(tokens: RowTokens) -> RowWeights:
    """1 / (sampled tokens of its row * number of rows): every row counts the same.

    What single-turn trainers do. A rollout of many rows counts as many times; use it for rollouts of one row.
    """
    rows_of_all = sum(row > 0 for rows in tokens for row in rows)
    return [[_share(row * rows_of_all) for row in rows] for rows in tokens]


def _share(tokens: int) -> float:
    return 1.0 / tokens if tokens else 0.0


def fixed_length(length: int) -> Aggregation:
    """1 / (``length`` * number of rollouts), whatever was sampled (Dr. GRPO, Liu et al. 2025).

    ``length`` is the most tokens a rollout may sample, so weights add up to at most 1.
    """

    def weights(tokens: RowTokens) -> RowWeights:
        return [[1.0 / (length * len(tokens))] * len(rows) for rows in tokens]

    return weights


def aggregation(name: str, *, length: int = 0) -> Aggregation:
    """The one of that name; ``length`` is for ``fixed_length``."""
    if name == "fixed_length":
        return fixed_length(length)
    return {"rollout": rollout_mean, "token": token_mean, "sequence": sequence_mean}[name]
