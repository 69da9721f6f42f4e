"""How many completions an attempt has made, counted in bounded memory."""

from collections import OrderedDict
from uuid import UUID

from leyden_gateway.errors import BudgetSpent

Attempt = tuple[UUID, int]


class CompletionBudget:
    """Counts per attempt; beyond ``entries`` attempts the least recently used is forgotten.

    The count lives in this process: a restart, or a second gateway, starts at zero. It stops runaway
    agents; it is not an invoice.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._made: OrderedDict[Attempt, int] = OrderedDict()

    def take(self, attempt: Attempt, limit: int) -> None:
        """Count one completion. Raises ``BudgetSpent`` when ``limit`` were made already."""
        made = self._made.get(attempt, 0)
        if made >= limit:
            raise BudgetSpent(
                f"this attempt has made its {limit} completions (limits.max_completions of its task)"
            )
        self._made[attempt] = made + 1
        self._made.move_to_end(attempt)
        if len(self._made) > self._entries:
            self._made.popitem(last=False)

    def give_back(self, attempt: Attempt) -> None:
        """Uncount a completion that infrastructure, not the agent, failed."""
        if attempt in self._made:
            self._made[attempt] = max(0, self._made[attempt] - 1)
