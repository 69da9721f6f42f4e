"""Which share of a policy's traffic its canaries take, and which call belongs to it: pure and sticky."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

SERVING = "serving"
"""The alias that a bare policy name means, as far as no canary takes the call."""

_STEPS = 1 << 48


def position(rollout_id: UUID, policy: str) -> float:
    """Where a rollout, or session, lies in [0, 1): uniform, and always the same for the same policy."""
    mixed = _hash(policy).copy()
    mixed.update(rollout_id.bytes)
    return int.from_bytes(mixed.digest(), "big") / _STEPS


@lru_cache(maxsize=1024)
def _hash(policy: str) -> blake2b:
    return blake2b(policy.encode() + b"\0", digest_size=6, person=b"split")


def canaries(aliases: Mapping[str, int], weights: Mapping[str, float]) -> tuple[tuple[float, int], ...]:
    """The upper end of each canary's part of [0, 1) and its version; what lies beyond is ``serving``'s.

    Canaries lie in the order of their names, so that raising the weight of the last, or only, one keeps its
    rollouts with it. Weights beyond 1 in sum leave nothing to serving and cut off the last names.
    """
    parts: list[tuple[float, int]] = []
    end = 0.0
    for alias in sorted(weights):
        if alias != SERVING and alias in aliases and end < 1:
            end = min(1.0, end + weights[alias])
            parts.append((end, aliases[alias]))
    return tuple(parts)
