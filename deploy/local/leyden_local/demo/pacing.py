"""How many rollouts may be asked for now: bounded staleness as arithmetic."""


def admissible(*, staleness: int, version: int, batch: int, accepted: int, running: int) -> int:
    """Rollouts that may still be admitted so that none is trained more than ``staleness`` versions late.

    ``(staleness + version + 1) * batch - (accepted + running)``, never negative, where ``version`` is the
    number of steps trained, ``accepted`` the rollouts that became samples and ``running`` those under way
    (AReaL, Fu et al. 2025, eq. 3).
    """
    return max(0, (staleness + version + 1) * batch - (accepted + running))
