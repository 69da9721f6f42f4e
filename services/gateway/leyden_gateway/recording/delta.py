"""What of a prompt the log has already, so that a record need not say it again.

Each attempt keeps the last few prompts that Kafka acknowledged, with what was sampled after them. A new
prompt is compared with these and stored from where it differs; ``leyden_schemas.deltas.expand`` is the
reader's side. Everything here is the JSON that goes on the log: what redaction changed is given changed.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

import msgspec
from msgspec import Raw

from leyden_gateway import metrics
from leyden_gateway.recording.prefixes import (
    NOTHING,
    Conversation,
    Ids,
    Shared,
    common,
    conversation,
    count,
    sequence,
)

Attempt = tuple[UUID, int]
"""A rollout and its attempt: whoever reads an attempt knows its completions, and no others."""

Request = Mapping[str, Raw]
"""The request's top-level fields, each as its JSON text."""

BRANCHES = 8
"""Prompts that an attempt keeps: conversations that go on in parallel, or were left."""

LEAST_SAVED = 200
"""A base that saves fewer bytes is not worth the bytes that name it."""

_GLANCE = 8
"""Prompts that differ in their first bytes are not compared any further."""
_OVERHEAD = 1024
"""Roughly what remembering a prompt costs beside its bytes."""
_REASONS = ("memory", "branches", "horizon", "session_over")
_SAVED = metrics.DELTA_SAVED
_FORGOTTEN = {reason: metrics.DELTA_FORGOTTEN.labels(reason) for reason in _REASONS}


class Base(msgspec.Struct, frozen=True, omit_defaults=True):
    """``leyden_schemas.PromptBase``, cheap to make and to encode."""

    completion_id: UUID
    tokens: int = 0
    items: int = 0
    fields: list[str] = []


class _Held(msgspec.Struct, frozen=True, eq=False):
    """A prompt on the log, followed by what was sampled."""

    completion_id: UUID
    ids: Ids
    talk: Conversation | None
    list_field: str | None
    fields: dict[str, Raw]
    """The request without its conversation."""
    size: int

    def begins(self, other: "_Held") -> bool:
        """Whether the other says all of this and goes on, so that this is needed no more."""
        if self.ids.count and not self.ids.begin(other.ids.text):
            return False
        if self.talk is None:
            return self.ids.count > 0
        return other.talk is not None and other.talk.text.startswith(self.talk.text)


class _Prompt(msgspec.Struct, frozen=True):
    """A prompt as it came."""

    attempt: Attempt
    ids: bytes
    request: Request
    list_field: str | None
    talk: bytes
    """The conversation's JSON text."""


class _Match(msgspec.Struct, frozen=True):
    """What a prompt shares with a held one."""

    held: _Held | None = None
    ids: Shared = NOTHING
    items: Shared = NOTHING
    fields: list[str] = []
    saved: int = 0


_NO_MATCH = _Match()


class Shrunk(msgspec.Struct, frozen=True):
    """What to store of a prompt, and where the beginning of it is; all of it without a base."""

    prompt_ids: bytes
    request: Request
    base: Base | None
    tokens: int
    """Ids of the whole prompt."""
    prompt: _Prompt
    match: _Match
    since: float = 0.0
    """When the chain of bases began, if there is a base."""


@dataclass(slots=True)
class _Branches:
    """What is known of one attempt."""

    since: float
    held: list[_Held] = field(default_factory=list)
    """The most recently used last."""
    size: int = 0

    def add(self, new: _Held) -> None:
        """Keep it instead of those that it continues, or of the least recently used."""
        self.held = [one for one in self.held if not one.begins(new)]
        if len(self.held) == BRANCHES:
            del self.held[0]
            _FORGOTTEN["branches"].inc()
        self.held.append(new)
        self.size = sum([one.size for one in self.held])


class Conversations:
    """The prompts of recent attempts, in at most ``memory_bytes``; the least recently used attempt goes.

    An attempt is forgotten ``horizon_s`` after its first prompt and starts anew with a whole one, so that no
    chain of bases reaches back further than a reader of the log may.
    """

    def __init__(
        self, *, memory_bytes: int, horizon_s: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._memory_bytes, self._horizon_s, self._clock = memory_bytes, horizon_s, clock
        self._attempts: OrderedDict[Attempt, _Branches] = OrderedDict()
        self.size = 0
        """Bytes held, roughly."""
        metrics.DELTA_MEMORY.set_function(lambda: self.size)

    def shrink(self, attempt: Attempt, prompt_ids: bytes, request: Request, list_field: str | None) -> Shrunk:
        """What is new in a prompt, with the base that saves most.

        ``prompt_ids`` is a flat JSON array of integers, empty when there are none. ``list_field`` names the
        field of ``request`` that grows (``leyden_schemas.CONVERSATION``).
        """
        talk = request.get(list_field) if list_field else None
        prompt = _Prompt(
            attempt, prompt_ids or b"[]", request, list_field, b"" if talk is None else bytes(talk)
        )
        known = self._known(attempt)
        match = _best(known.held, prompt) if known else _NO_MATCH
        if known is None or match.held is None or match.saved < LEAST_SAVED:
            return Shrunk(prompt.ids, request, None, count(prompt.ids), prompt, _NO_MATCH)
        if known.held[-1] is not match.held:
            known.held.remove(match.held)
            known.held.append(match.held)
        _SAVED.inc(match.saved)
        return _shrunk(prompt, match, match.held.completion_id, known.since)

    def remember(self, shrunk: Shrunk, completion_id: UUID, token_ids: bytes) -> None:
        """Keep a prompt that Kafka has acknowledged under this id, with what was sampled after it."""
        attempt = shrunk.prompt.attempt
        if not shrunk.tokens and not shrunk.prompt.talk:
            return
        known = self._known(attempt)
        if shrunk.base and (known is None or known.since != shrunk.since):
            return  # forgotten meanwhile; what leaned on this would lean on that chain too
        if known is None:
            known = self._attempts[attempt] = _Branches(self._clock())
        self.size -= known.size
        known.add(_held(shrunk, completion_id, token_ids or b"[]"))
        self.size += known.size
        while self.size > self._memory_bytes:
            self._forget(next(iter(self._attempts)), "memory")

    def forget(self, attempt: Attempt) -> None:
        """Its next prompt is whole, because for readers a session begins anew."""
        if attempt in self._attempts:
            self._forget(attempt, "session_over")

    def _known(self, attempt: Attempt) -> _Branches | None:
        known = self._attempts.get(attempt)
        if known is None:
            return None
        if self._clock() - known.since > self._horizon_s:
            self._forget(attempt, "horizon")
            return None
        self._attempts.move_to_end(attempt)
        return known

    def _forget(self, attempt: Attempt, reason: str) -> None:
        self.size -= self._attempts.pop(attempt).size
        _FORGOTTEN[reason].inc()


def _best(held: list[_Held], prompt: _Prompt) -> _Match:
    """What this prompt shares with the one that it continues; else with the one that it shares most with."""
    for one in reversed(held):
        if one.ids.begin(prompt.ids):
            return _match(one, prompt)
    alike, most = None, 0
    for one in reversed(held):
        if (length := _alike(one, prompt)) > most:
            alike, most = one, length
    return _match(alike, prompt) if alike else _NO_MATCH


def _alike(held: _Held, prompt: _Prompt) -> int:
    """Leading bytes in common: of the ids, or of the conversation when there are none."""
    if len(prompt.ids) > 2:
        one, other = held.ids.text, prompt.ids
    elif held.talk:
        one, other = held.talk.text, prompt.talk
    else:
        return 0
    head = other[: min(_GLANCE, len(other) - 1)]
    return common(one, other) if one.startswith(head) or head.startswith(one) else 0


def _match(held: _Held, prompt: _Prompt) -> _Match:
    ids, items, fields = held.ids.shared(prompt.ids), NOTHING, held.fields
    if held.talk is not None and held.list_field == prompt.list_field:
        items = held.talk.shared(prompt.talk)
    equal = [name for name, value in prompt.request.items() if fields.get(name) == value]
    saved = ids.rest + items.rest + sum([len(fields[name]) for name in equal])
    return _Match(held, ids, items, equal, saved)


def _shrunk(prompt: _Prompt, match: _Match, base_id: UUID, since: float) -> Shrunk:
    rest = {name: value for name, value in prompt.request.items() if name not in match.fields}
    if match.items.taken and prompt.list_field:
        rest[prompt.list_field] = Raw(match.items.cut(prompt.talk))
    ids = match.ids.cut(prompt.ids)
    base = Base(base_id, match.ids.taken, match.items.taken, match.fields)
    return Shrunk(ids, rest, base, match.ids.taken + count(ids), prompt, match, since)


def _held(shrunk: Shrunk, completion_id: UUID, token_ids: bytes) -> _Held:
    """Copies, because the request's values are pieces of a body that would be kept with them."""
    prompt, match = shrunk.prompt, shrunk.match
    known = match.held
    fields = {name: value.copy() for name, value in shrunk.request.items() if name != prompt.list_field}
    if known:
        fields |= {name: known.fields[name] for name in match.fields}
    talk = conversation(prompt.talk, known.talk if known else None, match.items) if prompt.talk else None
    ids = sequence(prompt.ids, shrunk.tokens, token_ids)
    size = _OVERHEAD + len(ids.text) + (talk.size if talk else 0) + sum(map(len, fields.values()))
    return _Held(completion_id, ids, talk, prompt.list_field, fields, size)
