"""The token limit cut an answer off."""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each


def truncated(turn: Turn) -> float:
    """1 when the answer ended at the limit."""
    return float(turn.finish_reason == "length")


RULE = Rule(
    "truncated_output",
    each(truncated),
    weight=-0.1,
    at_most=2,
    per="step",
    sees="an answer that the token limit cut off",
    why="it was too long for its purpose, and what stood at its end is missing",
)
