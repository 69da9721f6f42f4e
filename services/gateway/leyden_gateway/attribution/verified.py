"""Tokens that were verified a moment ago: an agent sends the same one with every call."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from leyden_gateway.attribution.scope import Verify
from leyden_platform.tokens import RolloutClaims

FRESH_S = 5.0
"""How long a verification holds; an expired token is accepted this much longer at most."""
ENTRIES = 10_000


class RecentlyVerified:
    """``verify`` with a short, bounded memory of its successes; failures are looked at anew."""

    def __init__(self, verify: Verify, now: Callable[[], float] = monotonic) -> None:
        self._verify, self._now = verify, now
        self._seen: OrderedDict[str, tuple[float, RolloutClaims]] = OrderedDict()

    def __call__(self, token: str) -> RolloutClaims:
        """The token's claims. Raises ``InvalidToken``."""
        seen = self._seen.get(token)
        if seen and self._now() - seen[0] < FRESH_S:
            return seen[1]
        claims = self._verify(token)
        self._seen[token] = (self._now(), claims)
        self._seen.move_to_end(token)
        if len(self._seen) > ENTRIES:
            self._seen.popitem(last=False)
        return claims
