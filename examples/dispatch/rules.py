"""An intermediate reward of this example's own: a call that went as it should is a step on the way."""

import re
from collections.abc import Sequence

import leyden

NOTES = re.compile(r", (\d+) notes?$")


@leyden.rule(weight=0.02, at_most=8)
def moved_on(turns: Sequence[leyden.Turn]) -> list[float]:
    """1 for every step in which the parcel went on, and got no note on the way."""
    notes = 0
    found = []
    for turn in turns:
        before, notes = notes, max([notes, *(notes_in(call) for call in turn.calls)])
        found.append(float(notes == before and any(outcome.worked for outcome in turn.outcomes)))
    return found


def notes_in(call: leyden.Call) -> int:
    """How many notes are on the parcel after a call: 2 for `labels, 2 notes`."""
    told = NOTES.search(call.result.text) if call.result else None
    return int(told[1]) if told else 0
