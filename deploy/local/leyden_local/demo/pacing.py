"""How many rollouts may be asked for now: bounded staleness as arithmetic."""


def admissible(*, staleness: int, batch: int, trained: int, accepted: int, running: int) -> int:
    """Rollouts that may still be admitted so that none is trained more than ``staleness`` full batches late.

    ``(staleness + 1) * batch + trained - (accepted + running)``, never negative, where ``accepted`` counts
    the rollouts that became samples and ``running`` those under way. With full batches ``trained`` is
    ``version * batch``, which gives ``(staleness + version + 1) * batch - (accepted + running)`` (AReaL, Fu
    et al. 2025, eq. 3); partial batches do not loosen the bound.
    """
    return max(0, (staleness + 1) * batch + trained - (accepted + running))
