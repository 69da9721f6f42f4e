"""Where production traffic is recorded: the rollout or the session that it names, or one of its own."""

from typing import NamedTuple
from uuid import UUID

from leyden_gateway.attribution.context import Headers, trace_id
from leyden_gateway.attribution.keys import ApiKey
from leyden_gateway.attribution.named import Source, Sources
from leyden_gateway.errors import WrongRollout
from leyden_schemas import cause_id, new_id


class Place(NamedTuple):
    """A rollout that was named, or that of a session; ``found`` says by what."""

    found: Source
    session: str | None = None
    rollout_id: UUID | None = None
    attempt: int = 1


def place(sources: Sources, headers: Headers, key: ApiKey | None) -> Place:
    """Where the call belongs, as far as it is known before the body. Raises ``WrongRollout``."""
    may_name = key is not None and key.grant.rollouts
    if not may_name:
        _refuse_rollout(sources)
    return _named(sources, may_name=may_name) or _unnamed(headers, key)


def session_rollout(tenant: str, run: str, session: str | None) -> UUID:
    """The rollout of a session, the same every time; a new one when there is no session."""
    return cause_id("session", tenant, run, session) if session else new_id()


def _named(sources: Sources, *, may_name: bool) -> Place | None:
    """What path, headers or baggage name.

    Baggage also reaches services that a rollout's agent merely talks to: without the right to name
    rollouts, the rollout in it is a session's name and nothing more.
    """
    for source, named in sources:
        if named.rollout_id and may_name:
            return Place(source, named.session, named.rollout_id, named.attempt or 1)
        if name := named.session or (str(named.rollout_id) if named.rollout_id else None):
            return Place(source, name)
    return None


def _unnamed(headers: Headers, key: ApiKey | None) -> Place:
    """The key's one session, the caller's trace, or a session of its own."""
    if key and key.grant.session == "key":
        return Place(Source.KEY, f"key:{key.name}")
    if trace := trace_id(headers):
        return Place(Source.TRACE, trace)
    return Place(Source.DEFAULT)


def _refuse_rollout(sources: Sources) -> None:
    for source, named in sources:
        if named.rollout_id and source is not Source.BAGGAGE:
            raise WrongRollout(
                f"the {source} names a rollout: send that rollout's token as the API key; an API key "
                'of production traffic needs "rollouts": true in the setting api_keys'
            )
