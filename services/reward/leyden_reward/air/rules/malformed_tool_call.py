"""The model tried to call a tool in a form that nobody can read."""

import re

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each

_MARKUP = re.compile(r"</?tool_call>|<function=|\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_call\|?>")


def malformed(turn: Turn) -> float:
    """How many calls have arguments that are no JSON object; 1 when markup of a call is left in the text."""
    if turn.tools and not turn.calls and _MARKUP.search(turn.text):
        return 1.0
    return float(sum(call.parsed is None for call in turn.calls))


RULE = Rule(
    "malformed_tool_call",
    each(malformed),
    weight=-0.1,
    at_most=2,
    per="call",
    sees="arguments that are no JSON object, or markup of a call left in the text",
    why="a call that no parser reads does nothing; it is the most common habit of small models",
)
