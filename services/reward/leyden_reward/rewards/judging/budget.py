"""What judging may cost: calls and tokens of the last hour. Time is the caller's, so decisions are pure."""

from collections import deque
from dataclasses import dataclass, field

HOUR_S = 3600.0


class BudgetSpent(Exception):
    """No call may be made now; the text names the limit and the setting that raises it."""


@dataclass(slots=True)
class Budget:
    """Counts a sliding hour: calls from when they begin, tokens from when they are known."""

    calls_per_hour: int
    tokens_per_hour: int
    _calls: deque[float] = field(default_factory=deque)
    _tokens: deque[tuple[float, int]] = field(default_factory=deque)
    _used: int = 0

    def begin(self, now_s: float) -> None:
        """Make a call. Raises ``BudgetSpent``."""
        self._forget(now_s - HOUR_S)
        if len(self._calls) >= self.calls_per_hour:
            raise BudgetSpent(
                f"{self.calls_per_hour} calls of the judge in an hour (LEYDEN_REWARD_JUDGE_CALLS_PER_HOUR)"
            )
        if self._used >= self.tokens_per_hour:
            raise BudgetSpent(
                f"{self._used} tokens of the judge in an hour (LEYDEN_REWARD_JUDGE_TOKENS_PER_HOUR)"
            )
        self._calls.append(now_s)

    def spend(self, tokens: int, now_s: float) -> None:
        """Take note of what a call came to."""
        self._tokens.append((now_s, tokens))
        self._used += tokens

    def _forget(self, until_s: float) -> None:
        while self._calls and self._calls[0] <= until_s:
            self._calls.popleft()
        while self._tokens and self._tokens[0][0] <= until_s:
            self._used -= self._tokens.popleft()[1]
