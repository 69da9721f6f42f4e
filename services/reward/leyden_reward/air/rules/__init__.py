"""The rules, a file each. None sees the task's reference: it says how an agent worked, not if it was right.

Adding one is adding a file with a ``RULE``, and its name below. A user adds one without touching this:
``leyden_reward.air.own``.
"""

from leyden_reward.air.rule import Rule
from leyden_reward.air.rules import (
    abandonment,
    empty_output,
    latency_over_budget,
    malformed_tool_call,
    no_progress,
    overlong_output,
    recovered_error,
    refusal,
    repeated_call,
    schema_violation,
    state_cycle,
    tool_call_failed,
    tool_call_succeeded,
    truncated_output,
    unknown_tool,
    user_correction,
)


def rules(*, token_limit: int = 8192, latency_budget_s: float = 60.0) -> tuple[Rule, ...]:
    """All rules: the limit of answers whose request has none, and the seconds that an answer may take."""
    return (
        tool_call_succeeded.RULE,
        tool_call_failed.RULE,
        recovered_error.RULE,
        malformed_tool_call.RULE,
        unknown_tool.RULE,
        schema_violation.RULE,
        repeated_call.RULE,
        state_cycle.RULE,
        no_progress.RULE,
        empty_output.RULE,
        truncated_output.RULE,
        overlong_output.rule(token_limit),
        latency_over_budget.rule(latency_budget_s),
        refusal.RULE,
        user_correction.RULE,
        abandonment.RULE,
    )


RULES = rules()
"""The rules with the defaults."""
