"""How the learning rate moves with the step."""

import math
from typing import Literal


def lr_factor(
    step: int, *, warmup_steps: int, total_steps: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """Share of the peak learning rate that the ``step``-th step (from 0) uses.

    Rises linearly to 1 over ``warmup_steps``, then stays, or falls to 0 at ``total_steps`` and stays there.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
