"""Whether publishing a version may move an alias to it. An older checkpoint is never promoted by mistake."""

from leyden_registry.values import Version


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
