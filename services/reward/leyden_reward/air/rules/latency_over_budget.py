"""A step took longer than it may."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def slow(turn: Turn, budget_s: float) -> float:
    """How far over the budget the server's time was: 1 at twice the budget; 0 when nobody took the time."""
    if turn.serving_s is None:
        return 0.0
    return min(max((turn.serving_s - budget_s) / budget_s, 0.0), 1.0)


def rule(budget_s: float) -> Rule:
    """The rule, with the seconds that an answer may take."""
    return Rule(
        "latency_over_budget",
        each(lambda turn: slow(turn, budget_s)),
        weight=-0.05,
        at_most=2,
        per="step",
        sees="an answer that took the server longer than the budget, in proportion",
        why="somebody waits; time in our own queues is not the agent's and does not count",
    )
