"""Tokens that were verified a moment ago: an agent sends the same one with every call."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic, time

from leyden_platform.tokens import RolloutClaims, Verified

FRESH_S = 60.0
"""How long a verification holds at most; it never outlives its token."""
ENTRIES = 10_000


class RecentlyVerified:
    """A short, bounded memory of successful verifications; failures are looked at anew."""

    def __init__(
        self,
        verify: Callable[[str], Verified],
        now: Callable[[], float] = monotonic,
        unix_time: Callable[[], float] = time,
    ) -> None:
        self._verify, self._now, self._unix_time = verify, now, unix_time
        self._seen: OrderedDict[bytes, tuple[float, RolloutClaims]] = OrderedDict()

    def __call__(self, token: bytes) -> RolloutClaims:
        """The token's claims. Raises ``InvalidToken``."""
        seen = self._seen.get(token)
        if seen and self._now() < seen[0]:
            return seen[1]
        self._seen.pop(token, None)
        claims, expires_at = self._verify(token.decode("latin-1"))
        left_s = min(FRESH_S, expires_at - self._unix_time())
        if left_s > 0:
            self._seen[token] = (self._now() + left_s, claims)
        if len(self._seen) > ENTRIES:
            self._seen.popitem(last=False)
        return claims
