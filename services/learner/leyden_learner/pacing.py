"""How much more the learner can use, for whoever asks for rollouts: bounded staleness as arithmetic."""


def room(*, staleness: int, step_rollouts: int, backlog: int) -> int:
    """Rollouts that may be under way now so that none is trained on more than ``staleness`` versions late.

    Those before it in line, ``backlog``, and it itself make ``staleness`` + 1 steps (AReaL, Fu et al. 2025,
    eq. 3, from the learner's side: what it cannot see are the rollouts under way, which count against this).
    """
    return max(0, (staleness + 1) * step_rollouts - backlog)
