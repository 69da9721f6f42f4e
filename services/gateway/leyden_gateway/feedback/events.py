"""What an item of feedback means on the log: a signal for each thing said, and perhaps the session's end.

Ids derive from what the caller sent: sending it again, after a timeout or to another process, adds nothing.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from leyden_gateway.feedback.items import Item
from leyden_schemas import Outcome, RolloutFinished, SignalRecorded, cause_id

THUMBS = {"up": 1.0, "down": -1.0}
CORRECTED = 1.0


class Giver(NamedTuple):
    """Who gives feedback: the name of the API key, and what it is bound to."""

    key: str
    tenant: str
    run: str


class Target(NamedTuple):
    """What feedback is about: a rollout, or one of its completions."""

    rollout_id: UUID
    completion_id: UUID | None = None


class Said(NamedTuple):
    """One signal of an item."""

    name: str
    value: float | None
    text: str | None


def said(item: Item) -> list[Said]:
    """The signals of an item. A correction counts 1: there was one.

    A comment comes first, so that a revision which one of the others makes has it.
    """
    signals = []
    if item.comment is not None:
        signals.append(Said("comment", None, item.comment))
    if item.thumb is not None:
        signals.append(Said("thumb", THUMBS[item.thumb], None))
    if item.score is not None:
        signals.append(Said("score", item.score, None))
    if item.correction is not None:
        signals.append(Said("correction", CORRECTED, item.correction))
    if item.name is not None:
        signals.append(Said(item.name, item.value, None))
    return signals


def identity(item: Item, target: Target, giver: Giver) -> UUID:
    """The same for equal feedback of one tenant; with an id of the caller's, for equal ids."""
    about = (giver.tenant, giver.run, target.rollout_id, target.completion_id)
    if item.id is not None:
        return cause_id("feedback", *about, "id", item.id)
    ended = (item.outcome, item.output) if item.finish else ()
    return cause_id("feedback", *about, *said(item), item.finish, *ended)


def events_of(
    item: Item, target: Target, giver: Giver, *, identity: UUID, now: datetime
) -> list[SignalRecorded | RolloutFinished]:
    """The events of an item, its end last. ``identity`` is of the item as it was sent."""
    common: dict[str, Any] = {
        "tenant": giver.tenant,
        "run": giver.run,
        "rollout_id": target.rollout_id,
        "occurred_at": now,
        "source": giver.key,
    }
    events: list[SignalRecorded | RolloutFinished] = [
        SignalRecorded(
            **common,
            event_id=cause_id("feedback", identity, signal.name),
            name=signal.name,
            value=signal.value,
            text=signal.text,
            completion_id=target.completion_id,
        )
        for signal in said(item)
    ]
    if item.finish:
        finished = cause_id("feedback", identity, "finish")
        outcome = item.outcome or Outcome.SUCCEEDED
        events.append(RolloutFinished(**common, event_id=finished, outcome=outcome, output=item.output))
    return events
