"""Waking everything that waits for the routing tables to change."""

import asyncio
from typing import Any


class Changes:
    """A bell. Join before looking, so that no ring is missed; ``count`` says how often it rang."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: dict[asyncio.Future[Any], None] = {}

    def announce(self) -> None:
        """Something changed: whoever has joined is woken, with None, in the order of joining."""
        self.count += 1
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def join(self, waiter: "asyncio.Future[Any]") -> None:
        """The next announcement wakes ``waiter``."""
        self._waiting[waiter] = None

    def leave(self, waiter: "asyncio.Future[Any]") -> None:
        """``waiter`` waits no longer."""
        self._waiting.pop(waiter, None)
