"""What headers say about whose call it is: Leyden's own, and the W3C context of instrumented agents.

Leyden's headers are meant, so a bad one is refused. Baggage and trace are ambient: what cannot be read in
them is nobody's mistake here, and is passed over.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import unquote

from leyden_gateway.attribution.named import (
    NOTHING,
    Named,
    agent_or_none,
    attempt_or_none,
    session_or_none,
    uuid_or_none,
)
from leyden_gateway.errors import InvalidRequest

Headers = Mapping[bytes, bytes]
"""Names in lower case, as ASGI has them."""

T = TypeVar("T")
_ROLLOUT, _ATTEMPT = b"x-leyden-rollout-id", b"x-leyden-attempt"
_AGENT, _SESSION = b"x-leyden-agent", b"x-leyden-session"
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def named_by_headers(headers: Headers) -> Named:
    """What the headers ``x-leyden-…`` name. Raises ``InvalidRequest``."""
    get = headers.get
    if not (get(_ROLLOUT) or get(_ATTEMPT) or get(_AGENT) or get(_SESSION)):
        return NOTHING
    rollout_id = _header(headers, _ROLLOUT, uuid_or_none, "a UUID")
    attempt = _header(headers, _ATTEMPT, attempt_or_none, "a number from 1")
    agent = _header(headers, _AGENT, agent_or_none, "a name of letters, digits and '._:-'")
    session = _header(headers, _SESSION, session_or_none, "at most 512 printable characters")
    return Named(rollout_id, attempt, agent, session)


def _header(headers: Headers, name: bytes, read: Callable[[str], T | None], hint: str) -> T | None:
    raw = headers.get(name)
    if not raw:
        return None
    text = _text(raw)
    if (value := read(text)) is None:
        raise InvalidRequest(f"header {name.decode()}: {text[:80]!r} is not {hint}")
    return value


def named_by_baggage(headers: Headers) -> Named:
    """What the members ``leyden.…`` of ``baggage`` name."""
    raw = headers.get(b"baggage")
    if not raw or b"leyden." not in raw:
        return NOTHING
    members = baggage(_text(raw))
    return Named(
        uuid_or_none(members.get("leyden.rollout_id", "")),
        attempt_or_none(members.get("leyden.attempt", "")),
        agent_or_none(members.get("leyden.agent", "")),
        session_or_none(members.get("leyden.session", "")),
    )


def baggage(text: str) -> dict[str, str]:
    """A W3C baggage header's members, percent-decoded, without properties; the last of equals wins.

    Those that are not UTF-8 are left out.
    """
    members = {}
    for member in text.split(","):
        key, equals, value = member.partition(";")[0].partition("=")
        if equals:
            with suppress(UnicodeDecodeError):
                members[key.strip()] = unquote(value.strip(), errors="strict")
    return members


def trace_id(headers: Headers) -> str | None:
    """The trace id of a valid W3C ``traceparent``: 32 hexadecimal digits."""
    raw = headers.get(b"traceparent")
    match = _TRACEPARENT.fullmatch(raw.strip()) if raw else None
    return match[1].decode() if match else None


def _text(raw: bytes) -> str:
    try:
        return raw.decode().strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()
