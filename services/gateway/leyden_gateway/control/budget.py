"""How many completions an attempt has made and how many tokens they took, counted in bounded memory."""

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from leyden_gateway.errors import BudgetSpent, TokensSpent

Attempt = tuple[UUID, int]


@dataclass(slots=True)
class _Spent:
    completions: int = 0
    tokens: int = 0


class CompletionBudget:
    """Counts per attempt; beyond ``entries`` attempts the least recently used is forgotten.

    The count lives in this process: a restart, or a second gateway, starts at zero. It stops runaway
    agents; it is not an invoice.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._spent: OrderedDict[Attempt, _Spent] = OrderedDict()

    def take(self, attempt: Attempt, limit: int, max_tokens: int | None = None, completions: int = 1) -> None:
        """Count one completion, or none for what is none.

        Raises ``BudgetSpent`` or ``TokensSpent`` when nothing is left.
        Tokens are counted when a completion ends, so the last one, or those in parallel, may pass the limit.
        """
        spent = self._spent.get(attempt) or _Spent()
        if spent.completions >= limit:
            raise BudgetSpent(
                f"this attempt has made its {limit} completions (limits.max_completions of its task)"
            )
        if max_tokens is not None and spent.tokens >= max_tokens:
            raise TokensSpent(f"this attempt has used {spent.tokens} of the {max_tokens} tokens it may use")
        spent.completions += completions
        self._keep(attempt, spent)

    def widen(self, attempt: Attempt, limit: int, completions: int) -> None:
        """The completion just counted is so many alternatives, each of which is one.

        Raises ``BudgetSpent`` when they are more than are left; then not even the first is counted.
        """
        spent = self._spent.get(attempt) or _Spent(completions=1)
        left = limit - spent.completions + 1
        if completions > left:
            spent.completions -= 1
            raise BudgetSpent(
                f"{completions} alternatives are {completions} completions, and this attempt has {left} of "
                f"its {limit} left (limits.max_completions of its task)"
            )
        spent.completions += completions - 1
        self._keep(attempt, spent)

    def _keep(self, attempt: Attempt, spent: _Spent) -> None:
        self._spent[attempt] = spent
        self._spent.move_to_end(attempt)
        if len(self._spent) > self._entries:
            self._spent.popitem(last=False)

    def spend(self, attempt: Attempt, tokens: int) -> None:
        """Count the prompt and sampled tokens of a completion that was taken."""
        if spent := self._spent.get(attempt):
            spent.tokens += tokens

    def give_back(self, attempt: Attempt, completions: int = 1) -> None:
        """Uncount what was answered with an error."""
        if spent := self._spent.get(attempt):
            spent.completions = max(0, spent.completions - completions)
