"""What a failed send says about the server, and whether, where and when to send again: pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from leyden_gateway.errors import MalformedAnswer, UpstreamTimedOut
from leyden_gateway.upstream.errors import ReplicaUnavailable, UpstreamRefused

Failure = ReplicaUnavailable | UpstreamRefused | UpstreamTimedOut | MalformedAnswer
"""Every way in which a send can fail."""

OURS = ("pool_full", "starting")
"""Reasons that lie with the gateway, not with the server."""

UNREACHABLE = ("connection", "connect_timeout")
"""Reasons not to use a replica before it answers a look."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ok`` is what a breaker counts: False for a fault of the server, None for nothing either way."""

    ok: bool | None
    rest_s: float = 0.0
    """How long the server asks to be left alone."""


def verdict(failure: Failure, now: datetime | None = None) -> Verdict:
    """What to hold against the server.

    At fault are transport failures, silence, garbage, and 502, 503 and 504. A 4xx is an answer like any
    other; a 500 may be the request's own and counts neither way.
    """
    match failure:
        case ReplicaUnavailable(reason=reason, refusal=refusal):
            return Verdict(None if reason in OURS else False, retry_after_s(refusal, now))
        case UpstreamRefused(status=504):
            return Verdict(ok=False)
        case UpstreamRefused(status=429):
            return Verdict(True, retry_after_s(failure, now))
        case UpstreamRefused(status=status):
            return Verdict(True if status < 500 else None)
        case UpstreamTimedOut() | MalformedAnswer():
            return Verdict(ok=False)


def retry_after_s(refusal: UpstreamRefused | None, now: datetime | None = None) -> float:
    """The seconds that ``Retry-After`` names, as a number or a date; 0 without a sensible one."""
    text = refusal.headers.get("retry-after", "").strip() if refusal else ""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def dropped_model(failure: Failure, model: str) -> bool:
    """Whether a replica says that it does not have ``model`` (a 404 of an unknown path does not name it)."""
    return isinstance(failure, UpstreamRefused) and failure.status == 404 and model.encode() in failure.body
