"""The model called a tool that it was not given."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def unknown(turn: Turn) -> float:
    """How many calls are of tools that the request did not offer."""
    return 0.0 if turn.tools is None else float(sum(call.name not in turn.tools for call in turn.calls))


RULE = Rule(
    "unknown_tool",
    each(unknown),
    weight=-0.1,
    at_most=2,
    per="call",
    sees="a call of a tool that the request did not offer",
    why="a tool that was not offered cannot have been meant to work",
)
