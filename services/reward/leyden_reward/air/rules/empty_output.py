"""An answer that says and does nothing."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def empty(turn: Turn) -> float:
    """1 when an answer has neither text nor a call."""
    return float(not turn.calls and not turn.text.strip())


RULE = Rule(
    "empty_output",
    each(empty),
    weight=-0.1,
    at_most=2,
    per="step",
    sees="an answer with neither text nor a call",
    why="it helps nobody and often ends an agent's loop too early",
)
