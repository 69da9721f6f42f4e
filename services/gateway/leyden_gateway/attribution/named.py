"""What path, headers and baggage each say about whose call it is, and which texts pass as names."""

import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
MAX_SESSION = 512
"""Longest text that names a session; it is stored with every record."""


@dataclass(frozen=True, slots=True)
class Named:
    """The parts that a source names; None where it is silent."""

    rollout_id: UUID | None = None
    attempt: int | None = None
    agent: str | None = None
    session: str | None = None


NOTHING = Named()


class Source(StrEnum):
    """Where a part of the attribution was found."""

    TOKEN = "token"
    PATH = "path"
    HEADER = "header"
    BAGGAGE = "baggage"
    BODY = "body"
    KEY = "key"
    TRACE = "trace"
    DEFAULT = "default"


Sources = list[tuple[Source, Named]]
"""What is named before the body is read, in the order of authority, without the sources that are silent."""


def named_by(path: Named, header: Named, baggage: Named) -> Sources:
    """The sources that name something."""
    found = [(Source.PATH, path)] if path is not NOTHING else []
    if header is not NOTHING:
        found.append((Source.HEADER, header))
    if baggage is not NOTHING:
        found.append((Source.BAGGAGE, baggage))
    return found


def uuid_or_none(text: str) -> UUID | None:
    """A UUID in its usual form of 36 characters."""
    if len(text) != 36:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None


def attempt_or_none(text: str) -> int | None:
    """A number of an attempt; they count from 1."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        return None
    return int(text) or None


def agent_or_none(text: str) -> str | None:
    """The name of an agent role, as ``leyden_schemas.Name`` has it."""
    return text if _NAME.fullmatch(text) else None


def session_or_none(text: object) -> str | None:
    """A text that can name a session: printable, not blank, at most ``MAX_SESSION`` characters."""
    if not isinstance(text, str) or len(text) > MAX_SESSION:
        return None
    text = text.strip()
    return text if text and text.isprintable() else None
