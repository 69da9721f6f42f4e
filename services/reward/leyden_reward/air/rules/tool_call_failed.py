"""A tool answered that it could not do what the step asked."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def failed(turn: Turn) -> float:
    """How many of the step's calls failed."""
    return float(sum(not outcome.worked for outcome in turn.outcomes))


RULE = Rule(
    "tool_call_failed",
    each(failed),
    weight=-0.05,
    at_most=3,
    per="call",
    sees="a tool answered with an error",
    why="the tool itself said that the call was wrong, and the step that made it is to blame",
)
