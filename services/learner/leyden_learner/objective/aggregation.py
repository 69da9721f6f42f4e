"""How much each sampled token counts; how a rollout was cut into rows must not matter."""

from collections.abc import Sequence


def rollout_mean(tokens_of_rollouts: Sequence[int]) -> list[float]:
    """Weight of one token of each rollout: 1 / (sampled tokens of its rollout * number of rollouts).

    The weights of all tokens add up to 1, however many rows a rollout is fragmented into. Dividing by the
    number of rows instead would shrink the step with every fragment.
    """
    return [1.0 / (tokens * len(tokens_of_rollouts)) for tokens in tokens_of_rollouts]


def token_mean(tokens_of_rollouts: Sequence[int]) -> list[float]:
    """Weight of one token of each rollout when all tokens count the same (DAPO): 1 / all sampled tokens."""
    total = sum(tokens_of_rollouts)
    return [1.0 / total for _ in tokens_of_rollouts]


AGGREGATIONS = {"rollout": rollout_mean, "token": token_mean}
