"""The agent goes on although nothing that it does brings anything new."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule

PATIENCE = 3
"""The first two stale steps in a row are free: one may be a retry, and another a check."""


def stalled(turns: Sequence[Turn]) -> list[float]:
    """1 for every step from the third in a row that brought its agent nothing that it had not seen.

    New is a call that worked for the first time, a result or an error of other words, a text that was not
    said before, and an answer of the user that was not heard before.
    """
    seen: dict[str, set[object]] = defaultdict(set)
    stale: Counter[str] = Counter()
    values = []
    for turn in turns:
        if turn.answered:
            brought = set(_brought(turn))
            stale[turn.agent] = stale[turn.agent] + 1 if brought <= seen[turn.agent] else 0
            seen[turn.agent] |= brought
        values.append(float(turn.answered and stale[turn.agent] >= PATIENCE))
    return values


def _brought(turn: Turn) -> Iterator[object]:
    for call in turn.calls:
        if call.worked is not False:
            yield "did", call.fingerprint
        if call.result is not None:
            yield "got", call.result.text
    if not turn.calls and turn.text.strip():
        yield "said", turn.text.strip()
    if turn.reaction:
        yield "heard", turn.reaction


RULE = Rule(
    "no_progress",
    stalled,
    weight=-0.05,
    at_most=3,
    per="step",
    sees="the third and every further step in a row that brought nothing new",
    why="whoever sees that nothing changes should do something else, also with other arguments",
)
