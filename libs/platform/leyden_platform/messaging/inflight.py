"""How much may be published and not yet acknowledged; whoever comes later waits in line."""

import asyncio
from collections import deque


class InFlight:
    """A bound on bytes in hand, given out in the order in which they were asked for.

    What is larger than the whole bound is let through when nothing else is in hand.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def held(self) -> int:
        """Bytes in hand now."""
        return self._held

    def take_now(self, size: int) -> bool:
        """Have ``size`` bytes in hand, if nobody waits and they fit."""
        if self._line or not self._fits(size):
            return False
        self._held += size
        return True

    async def take(self, size: int) -> None:
        """Return with ``size`` bytes in hand; whoever is cancelled while waiting has none."""
        if self.take_now(size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            self.give_back(0 if turn.cancelled() else size)
            raise

    def give_back(self, size: int) -> None:
        """Return what was taken, and let in who fits now."""
        self._held -= size
        while self._line:
            turn, wanted = self._line[0]
            if not turn.done():
                if not self._fits(wanted):
                    return
                self._held += wanted
                turn.set_result(None)
            self._line.popleft()

    def _fits(self, size: int) -> bool:
        return not self._held or self._held + size <= self._limit
