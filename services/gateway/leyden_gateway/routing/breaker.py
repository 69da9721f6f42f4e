"""When a server is left alone: a state machine over the failures of its calls, with time as an argument.

``CLOSED`` lets calls through and counts. Too many failures, in a row or as a share of a window, make it
``OPEN``: nothing passes for a while. Then it is ``HALF_OPEN``: one call probes. A probe whose answer begins
closes it on probation, where the next failure opens it again, for longer, until a call ends well.
"""

from dataclasses import dataclass
from enum import Enum

JITTER = 0.2
"""An open time is varied by up to this share, so that gateways do not probe in step."""


class State(Enum):
    """What a breaker lets through. The value is what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """When to open, and for how long."""

    failures: int = 5
    """In a row."""
    ratio: float = 0.5
    window_s: float = 10.0
    min_calls: int = 20
    """In a window, for ``ratio`` to count."""
    open_s: float = 1.0
    """Doubled for each opening since the last call that ended well."""
    open_max_s: float = 10.0


class Breaker:
    """The state of one server. Times are seconds of a monotonic clock; ``jitter`` is uniform in [0, 1)."""

    __slots__ = (
        "_calls",
        "_failed",
        "_in_a_row",
        "_openings",
        "_rules",
        "_window_ends",
        "open_until",
        "probing",
        "state",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.state = State.CLOSED
        self.open_until = 0.0
        self.probing = False
        """Whether the one call that ``HALF_OPEN`` lets through is on its way."""
        self._in_a_row = self._openings = 0
        self._window_ends = 0.0
        self._calls = self._failed = 0

    def look(self, now: float) -> None:
        """Let time pass: an open breaker becomes half open when its time is over."""
        if self.state is State.OPEN and now >= self.open_until:
            self.state, self.probing = State.HALF_OPEN, False

    def began(self) -> None:
        """The probe's answer has begun."""
        if self.state is State.HALF_OPEN:
            self.state, self.probing = State.CLOSED, False
            self._in_a_row = self._rules.failures - 1
            self._window_ends = 0.0

    def succeeded(self, now: float) -> None:
        """A call ended well."""
        if self.state is State.CLOSED:
            self._in_a_row = self._openings = 0
            self._count(now)

    def failed(self, now: float, jitter: float) -> None:
        """A call failed in a way that is the server's fault."""
        match self.state:
            case State.HALF_OPEN:
                self._open(now, jitter)
            case State.CLOSED:
                self._in_a_row += 1
                self._count(now)
                self._failed += 1
                if self._in_a_row >= self._rules.failures or self._too_many():
                    self._open(now, jitter)
            case State.OPEN:
                pass

    def abandoned(self) -> None:
        """The probe was given up before its answer began; the next call is the probe."""
        self.probing = False

    def _count(self, now: float) -> None:
        if now >= self._window_ends:
            self._window_ends = now + self._rules.window_s
            self._calls = self._failed = 0
        self._calls += 1

    def _too_many(self) -> bool:
        rules = self._rules
        return self._calls >= rules.min_calls and self._failed >= rules.ratio * self._calls

    def _open(self, now: float, jitter: float) -> None:
        rules = self._rules
        seconds = min(rules.open_s * 2.0 ** min(self._openings, 60), rules.open_max_s)
        self.open_until = now + seconds * (1 - JITTER + 2 * JITTER * jitter)
        self.state, self.probing = State.OPEN, False
        self._openings += 1
        self._in_a_row = 0
        self._window_ends = 0.0
