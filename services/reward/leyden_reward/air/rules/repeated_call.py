"""The agent asks what it has asked before and hears what it has heard before."""

from collections.abc import Sequence

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule


def repeated(turns: Sequence[Turn]) -> list[float]:
    """How many calls this agent made before, in any step, without learning anything new.

    A call without a known result is repeated when it was made before.
    """
    asked: set[object] = set()
    known: set[object] = set()
    counts = []
    for turn in turns:
        count = 0
        for call in turn.calls:
            question = (turn.agent, call.fingerprint)
            answer = (question, call.result.text if call.result else None)
            count += question in asked if call.result is None else answer in known
            asked.add(question)
            known.add(answer)
        counts.append(float(count))
    return counts


RULE = Rule(
    "repeated_call",
    repeated,
    weight=-0.05,
    at_most=3,
    per="call",
    sees="the same call with the same result as before",
    why="it is no progress; with a changed result, as when polling, it is",
)
