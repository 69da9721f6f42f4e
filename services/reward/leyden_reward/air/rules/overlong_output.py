"""An answer comes close to the limit of its length.

The soft punishment of Yu et al., "DAPO" (2025, arXiv:2503.14476), section 3.4: nothing until a buffer before
the limit, then in proportion. Their buffer, a fifth of the limit, is used here too.
"""

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule, each

BUFFER = 0.2
SHORTEST = 256
"""Limits below this are there to keep answers short, and using them up is no fault."""


def overlong(turn: Turn, limit: int) -> float:
    """How far into the last fifth of the limit the answer went, from 0 to 1.

    The limit is the request's own, or ``limit``. An answer that was cut off is left to ``truncated_output``.
    """
    limit = turn.limit or limit
    if limit < SHORTEST or turn.finish_reason == "length":
        return 0.0
    buffer = BUFFER * limit
    return min(max((turn.tokens - (limit - buffer)) / buffer, 0.0), 1.0)


def rule(limit: int) -> Rule:
    """The rule, with the limit of requests that have none."""
    return Rule(
        "overlong_output",
        each(lambda turn: overlong(turn, limit)),
        weight=-0.1,
        at_most=1,
        per="step",
        sees="an answer in the last fifth of the request's token limit, in proportion",
        why="a policy that grows towards the limit is warned before answers are cut off",
    )
