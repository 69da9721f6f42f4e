"""Reading a whole answer: the short way where it is as usual, else the way that takes anything."""

from contextlib import suppress
from typing import NamedTuple

from leyden_gateway.errors import MalformedAnswer
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.fields import Fields, NotJson, parse_answer, parse_any
from leyden_gateway.exchange.lifting import lift
from leyden_gateway.exchange.training_mode import Wants


class Read(NamedTuple):
    """What is recorded of an answer, its members, and those that the caller may see."""

    capture: Capture
    payload: Fields
    seen: Fields


def read_members(raw: bytes) -> Fields:
    """An answer's members. Raises ``MalformedAnswer``."""
    try:
        return parse_answer(raw)
    except NotJson as error:
        raise MalformedAnswer(f"the replica's answer: {error}") from None


def read_answer(raw: bytes, wants: Wants, capture: Capture) -> Read:
    """Any completion. Raises ``MalformedAnswer``; ``capture`` then has what came before the fault."""
    payload = read_members(raw)
    return Read(capture, payload, capture.whole(payload, wants))


def read_lifted(raw: bytes, wants: Wants) -> Read | None:
    """What ``read_answer`` gives, except that ``payload`` lacks the log-probabilities.

    None for an answer that is not as usual, and for callers who may see the log-probabilities.
    """
    if wants.logprobs or (lifted := lift(raw)) is None:
        return None
    capture = Capture()
    with suppress(NotJson, MalformedAnswer):
        payload = parse_any(lifted.rest)
        seen = capture.whole(payload, wants, lifted.logprobs)
        if any(choice.logprobs is lifted.logprobs for choice in capture.choices.values()):
            return Read(capture, payload, seen)
    return None
