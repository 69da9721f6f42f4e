"""A tool did what the step asked of it."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def succeeded(turn: Turn) -> float:
    """1 when any of the step's calls worked."""
    return float(any(outcome.worked for outcome in turn.outcomes))


RULE = Rule(
    "tool_call_succeeded",
    each(succeeded),
    weight=0.05,
    at_most=1,
    per="step",
    sees="a tool answered without an error",
    why="a first working call must be discovered before an outcome can follow; more of them earn nothing",
)
