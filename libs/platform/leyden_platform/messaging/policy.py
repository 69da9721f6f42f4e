"""When to retry, when to dead-letter, when to stop: a pure decision over recent outcomes."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Bounds on how much failure a consumer puts up with."""

    attempts: int = 3
    """Tries of one message before it is dead-lettered."""
    backoff_s: float = 0.2
    """Pause before the second try; doubles after each."""
    backoff_max_s: float = 10.0
    """Longest pause between tries."""
    window: int = 200
    """How many recent messages the share of bad ones is computed over."""
    bad_share: float = 0.5
    """Stop when more than this share of the window is bad."""
    bad_minimum: int = 50
    """Never stop before this many bad messages lie in the window."""

    def pause_s(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th failure (1-based)."""
        return min(self.backoff_s * 2.0 ** (attempt - 1), self.backoff_max_s)


@dataclass(slots=True)
class BadShare:
    """Share of bad messages among the last ``policy.window``."""

    policy: FailurePolicy
    _recent: deque[bool] = field(default_factory=deque)
    _bad: int = 0

    def record(self, *, bad: bool) -> None:
        """Count one message."""
        self._recent.append(bad)
        self._bad += bad
        if len(self._recent) > self.policy.window:
            self._bad -= self._recent.popleft()

    @property
    def bad(self) -> int:
        """Bad messages in the window."""
        return self._bad

    def exceeded(self) -> bool:
        """Whether the consumer should stop."""
        return self._bad >= self.policy.bad_minimum and self._bad > self.policy.bad_share * len(self._recent)
