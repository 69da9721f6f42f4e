"""A punishment that grows with length, for use in a composition.

Source: soft overlong punishment, equation 13 of DAPO (Yu et al., arXiv:2503.14476).
"""

from leyden_schemas import Trajectory
from leyden_schemas.rewards import Overlong, params_of


def overlong(trajectory: Trajectory) -> float:
    """0 up to ``max_tokens - buffer`` sampled tokens, falling linearly to -1 at ``max_tokens`` and beyond.

    Tokens of all steps count.
    """
    params = params_of(trajectory.task.reward, Overlong)
    buffer = params.max_tokens / 4 if params.buffer is None else params.buffer
    return soft_punishment(sum(len(step.token_ids) for step in trajectory.steps), params.max_tokens, buffer)


def soft_punishment(length: int, most: float, buffer: float) -> float:
    """``((most - buffer) - length) / buffer`` between its bounds 0 and -1."""
    return max(-1.0, min(0.0, (most - buffer - length) / buffer))
