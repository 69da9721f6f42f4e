"""What a base URL says: ``/rollouts/{id}/attempts/{n}`` or ``/sessions/{id}``, then ``/agents/{name}``."""

from functools import lru_cache
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
from leyden_gateway.errors import NoSuchRoute

PathScope = Named
"""What the path names; ``/v1/…`` names nothing."""

MAX_REMEMBERED = 256
"""Longer paths are read anew each time, so that nobody fills the memory with them."""

T = TypeVar("T")


def parse_path(path: str) -> tuple[PathScope, str]:
    """What a percent-encoded path names, and the rest of it (``/v1/…``).

    Raises ``NoSuchRoute`` when it begins like a rollout or a session but names none.
    """
    if path.startswith("/v1/"):
        return NOTHING, path
    return _remembered(path) if len(path) <= MAX_REMEMBERED else _parse(path)


def _parse(path: str) -> tuple[PathScope, str]:
    match [part for part in path.split("/") if part]:
        case ["rollouts", rollout, "attempts", attempt, *rest]:
            rollout_id = _known(uuid_or_none(rollout), rollout, "a rollout id: it is a UUID")
            number = _known(attempt_or_none(attempt), attempt, "an attempt: they are counted 1, 2, …")
            agent, rest = _agent(rest)
            return Named(rollout_id, number, agent), _joined(rest)
        case ["sessions", session, *rest]:
            hint = "a session: up to 512 printable characters, percent-encoded UTF-8"
            name = _known(session_or_none(_decoded(session)), session, hint)
            agent, rest = _agent(rest)
            return Named(session=name, agent=agent), _joined(rest)
        case ["rollouts", *_]:
            raise NoSuchRoute(f"{path[:200]}: a rollout's path is /rollouts/{{id}}/attempts/{{n}}/v1/…")
        case ["sessions"]:
            raise NoSuchRoute(f"{path[:200]}: a session's path is /sessions/{{id}}/v1/…")
        case _:
            return NOTHING, path


_remembered = lru_cache(4096)(_parse)
"""An attempt's calls all have the same few paths."""


def _agent(rest: list[str]) -> tuple[str | None, list[str]]:
    match rest:
        case ["agents", name, *rest]:
            hint = "an agent: up to 200 letters, digits and '._:-', a letter or digit first"
            return _known(agent_or_none(_decoded(name)), name, hint), rest
        case _:
            return None, rest


def _decoded(text: str) -> str:
    """Empty, which names nothing, for what is not UTF-8: replaced bytes would make one name of many."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return ""


def _known(value: T | None, text: str, hint: str) -> T:
    if value is None:
        raise NoSuchRoute(f"{text[:80]!r} in the path is not {hint}")
    return value


def _joined(rest: list[str]) -> str:
    return "/" + "/".join(rest)
