"""What a version must answer: log-probabilities of a fixed row of tokens, kept beside the weights.

Whoever makes a checkpoint writes them from the weights in memory; whoever serves it asks its engine for the
same and compares. The file is one of the artifact's, so the digest covers it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leyden_platform.artifacts import IncompleteArtifact

PROBE_FILE = "probe.json"
PROBE_TOKENS = 48
_STRIDE = 7919
"""A prime, so that the row visits all of a vocabulary before it repeats itself."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A row of tokens, and the log-probability of each but the first, given those before it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.token_ids) < 2 or len(self.logprobs) != len(self.token_ids) - 1:
            raise ValueError("a probe needs two tokens or more, and a log-probability for all but the first")
        if not all(math.isfinite(value) and value <= 0 for value in self.logprobs):
            raise ValueError("a probe's log-probabilities are finite and not above 0")


def probe_ids(vocabulary: int, context: int = PROBE_TOKENS) -> list[int]:
    """The row for a model of this vocabulary, spread over all of it, no longer than its context."""
    return [(_STRIDE * (position + 1)) % vocabulary for position in range(min(PROBE_TOKENS, context))]


def write_probe(folder: Path, probe: Probe) -> None:
    """Put a probe beside the weights it belongs to."""
    content = {"token_ids": probe.token_ids, "logprobs": probe.logprobs}
    (folder / PROBE_FILE).write_text(json.dumps(content))


def read_probe(folder: Path) -> Probe | None:
    """The probe of a folder, or None when nobody wrote one. Raises ``IncompleteArtifact``."""
    file = folder / PROBE_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_bytes())
        return Probe(tuple(map(int, content["token_ids"])), tuple(map(float, content["logprobs"])))
    except (ValueError, TypeError, KeyError) as error:
        raise IncompleteArtifact("malformed", PROBE_FILE, f"not a probe: {error}") from None


def distance(expected: Sequence[float], served: Sequence[float]) -> float:
    """Root mean square of the differences, in nats; infinite when they cannot be compared."""
    if len(expected) != len(served) or not expected:
        return math.inf
    mean = sum((a - b) ** 2 for a, b in zip(expected, served, strict=True)) / len(expected)
    return math.sqrt(mean) if math.isfinite(mean) else math.inf


def looks_stale(served: Sequence[float], expected: Sequence[float], before: Sequence[float]) -> bool:
    """Whether what is served is rather the version before than the one that was loaded.

    True when the answers are less than half as far from the old version's as from the new one's. An engine's
    own inaccuracy lies in both distances, so versions that differ by less cannot be told apart and pass.
    """
    return distance(before, served) < 0.5 * distance(expected, served)
