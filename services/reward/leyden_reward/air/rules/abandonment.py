"""The conversation ends before it is over: the last answer asks something, or nobody waited for it."""

import re
from collections.abc import Sequence

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule

_TAIL = 300
_ASKS = re.compile(r"[?？؟][\s\"'”’)*_」』）]*\Z")
_POLITE = re.compile(
    r"(?:anything else|else i can|(?:further|more|other) (?:help|assist|question))[^?]*\?\W*\Z",
    re.IGNORECASE,
)


def abandoned(turns: Sequence[Turn]) -> list[float]:
    """1 for the last step, when it ends with a question or the caller hung up on it.

    "Is there anything else?" is no question. A last step that calls a tool is no end of a conversation.
    """
    values = [0.0] * len(turns)
    ends = (t for t in reversed(range(len(turns))) if turns[t].answered or turns[t].cancelled)
    if (last := next(ends, None)) is not None:
        values[last] = float(turns[last].cancelled or _asks(turns[last]))
    return values


def _asks(turn: Turn) -> bool:
    tail = turn.text[-_TAIL:]
    return not turn.calls and bool(_ASKS.search(tail)) and not _POLITE.search(tail)


RULE = Rule(
    "abandonment",
    abandoned,
    weight=-0.1,
    at_most=1,
    per="step",
    sees="a rollout whose last answer ends with a question, or was broken off by the caller",
    why="nobody answered it, or waited for it: what the user came for was not done",
)
