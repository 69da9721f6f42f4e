"""Whether an alias may move to a version, and take a share of traffic with it.

An older checkpoint is never promoted by mistake.
"""

from collections.abc import Mapping

from leyden_registry.values import Version

SERVING = "serving"
"""The alias that a bare policy name means; it has what the canaries leave."""


def held_back(current: Version | None, candidate: Version) -> str | None:
    """Why the alias stays at ``current``, or None when it moves to ``candidate``.

    Within one run the learner's step decides, because a delayed upload of an old step gets a new number;
    otherwise, and for imports without a step, the version number does.
    """
    if current is None:
        return None
    if current.run == candidate.run and current.step is not None and candidate.step is not None:
        if candidate.step < current.step:
            return f"names version {current.version} of step {current.step}, newer than step {candidate.step}"
        return None
    if candidate.version <= current.version:
        return f"names version {current.version}, which is not older than {candidate.version}"
    return None


def overweight(alias: str, weight: float | None, others: Mapping[str, float]) -> str | None:
    """Why the alias cannot take this share beside what ``others`` have, or None when it can."""
    if weight is None:
        return None
    if alias == SERVING:
        return f"{SERVING} has no weight: it takes what the weighted aliases leave"
    left = 1 - sum(share for name, share in others.items() if name != alias)
    if weight > left + 1e-9:
        taken = ", ".join(f"{name} {share:g}" for name, share in sorted(others.items()) if name != alias)
        return f"weight {weight:g} is more than the {max(left, 0.0):g} that is left beside {taken}"
    return None
