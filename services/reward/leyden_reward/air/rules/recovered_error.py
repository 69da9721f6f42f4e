"""The agent corrects a call that failed.

A recovery pays back a part of what the failure cost, and only for calls that failed before. So provoking an
error in order to recover from it always loses.
"""

from collections import Counter
from collections.abc import Sequence

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule


def recovered(turns: Sequence[Turn]) -> list[float]:
    """How many failed calls of earlier steps the step makes good, by a working call of the same tool.

    Every failed call is made good once, and every working call makes good one.
    """
    open_failures: Counter[tuple[str, str]] = Counter()
    counts = []
    for turn in turns:
        count = 0
        for tool, worked in turn.outcomes:
            if worked and open_failures[turn.agent, tool] > 0:
                open_failures[turn.agent, tool] -= 1
                count += 1
        open_failures.update((turn.agent, tool) for tool, worked in turn.outcomes if not worked)
        counts.append(float(count))
    return counts


RULE = Rule(
    "recovered_error",
    recovered,
    weight=0.03,
    at_most=1,
    per="call",
    sees="a working call of a tool whose earlier call failed",
    why="correcting an error is the way on; it pays less than the error cost, so errors are not worth making",
)
