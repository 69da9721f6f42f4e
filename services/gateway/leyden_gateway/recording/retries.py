"""Which earlier completion a call repeats: clients try again what failed, and say so in a header."""

from collections import OrderedDict
from uuid import UUID

from leyden_gateway import metrics
from leyden_gateway.attribution.context import Headers
from leyden_gateway.attribution.named import Source
from leyden_gateway.attribution.scope import Attribution

ENTRIES = 50_000
_FIRST = (b"", b"0")


class Retries:
    """The latest call of each (rollout, request), in bounded memory.

    Only calls of clients that count their tries (``x-stainless-retry-count``, as OpenAI's and Anthropic's
    do) or name them (``idempotency-key``) are remembered; nobody else could be recognised when they repeat.
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._latest: OrderedDict[tuple[object, int, int], UUID] = OrderedDict()

    def link(self, whose: Attribution, headers: Headers, body: bytes, completion_id: UUID) -> UUID | None:
        """The completion that this call repeats, if it says that it does; from now on it is the latest."""
        count, key = headers.get(b"x-stainless-retry-count"), headers.get(b"idempotency-key")
        if count is None and not key:
            return None
        request = key or body
        name = (_scope(whose), hash(request), len(request))
        earlier = self._latest.pop(name, None)
        self._latest[name] = completion_id
        if len(self._latest) > self._entries:
            self._latest.popitem(last=False)
        if earlier is None or not (key or (count and count.strip() not in _FIRST)):
            return None
        metrics.RETRIES_LINKED.inc()
        return earlier


def _scope(whose: Attribution) -> object:
    """The rollout's attempt; for a call that is its own session, whoever made it."""
    if whose.rollout_from is Source.DEFAULT:
        return whose.tenant, whose.key
    return whose.rollout_id, whose.attempt
