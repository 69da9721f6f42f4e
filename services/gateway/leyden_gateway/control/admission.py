"""Whether a call may come in, and what it is charged: room, the tenant's limits, the attempt's budget."""

from leyden_gateway import metrics
from leyden_gateway.control.budget import CompletionBudget
from leyden_gateway.control.calls import Calls
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.errors import Overloaded
from leyden_gateway.recording.record import Call


class Admission:
    """``admit`` a call, and ``settle`` it however it ended."""

    def __init__(
        self, limiter: TenantLimiter, budget: CompletionBudget, calls: Calls, *, max_in_flight: int
    ) -> None:
        self._limiter, self._budget, self._calls = limiter, budget, calls
        self._max_in_flight = max_in_flight
        metrics.IN_FLIGHT.set_function(lambda: len(calls))

    def admit(self, call: Call) -> None:
        """Count the call in. Raises ``Overloaded``, ``RateLimited``, ``BudgetSpent`` or ``TokensSpent``."""
        if len(self._calls) >= self._max_in_flight:
            raise Overloaded(f"{self._max_in_flight} calls are in flight; try again shortly")
        whose = call.attribution
        self._limiter.admit(whose.tenant)
        try:
            if claims := whose.claims:
                attempt = (whose.rollout_id, whose.attempt)
                if call.operation is not None:
                    call.completions = 0
                self._budget.take(attempt, claims.max_completions, claims.max_tokens, call.completions)
        except BaseException:
            self._limiter.finish(whose.tenant, 0)
            raise
        self._calls.begin(call.completion_id, whose.rollout_id, call.protocol, whose.tenant)

    def charge(self, call: Call, completions: int) -> None:
        """Count all alternatives that an admitted call asks for. Raises ``BudgetSpent``."""
        whose = call.attribution
        if whose.claims and completions > 1 and call.completions:
            attempt = (whose.rollout_id, whose.attempt)
            self._budget.widen(attempt, whose.claims.max_completions, completions)
            call.completions = completions

    def settle(self, call: Call, *, tokens: int, failed: bool) -> None:
        """Count the call out; one that got nothing but an error (``failed``) costs no completions."""
        whose = call.attribution
        self._calls.end(call.completion_id)
        self._limiter.finish(whose.tenant, tokens)
        if whose.claims:
            attempt = (whose.rollout_id, whose.attempt)
            self._budget.spend(attempt, tokens)
            if failed:
                self._budget.give_back(attempt, call.completions)
