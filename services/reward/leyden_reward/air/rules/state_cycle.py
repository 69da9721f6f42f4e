"""The agent goes round in circles: it is back where it was and does again what it did there."""

from collections import defaultdict
from collections.abc import Sequence

from leyden_platform.conversation import Turn
from leyden_reward.air.rule import Rule


class _Path:
    """Where one agent has been, what it did there, and how often it had moved on by then."""

    def __init__(self) -> None:
        self._state: object = None
        self._moves = 0
        self._done: dict[object, int] = {}

    def returns(self, state: object, action: object) -> bool:
        """Whether the same was done in the same state, with another state between then and now."""
        if state != self._state:
            self._state, self._moves = state, self._moves + 1
        before = self._done.setdefault((state, action), self._moves)
        return before < self._moves


def cycles(turns: Sequence[Turn]) -> list[float]:
    """1 for every step that repeats an action in a state that the agent had left and come back to.

    Doing something else there is no cycle, so looking around and going back is free.
    """
    paths: dict[str, _Path] = defaultdict(_Path)
    return [
        float(turn.answered and bool(turn.state) and paths[turn.agent].returns(turn.state, _action(turn)))
        for turn in turns
    ]


def _action(turn: Turn) -> object:
    return tuple(call.fingerprint for call in turn.calls) or turn.text


RULE = Rule(
    "state_cycle",
    cycles,
    weight=-0.05,
    at_most=3,
    per="step",
    sees="the same action in a state that the agent had left and is back in",
    why="what led away from a state and back to it will again; another action there is not punished",
)
