"""Waking everything that waits for the routing tables to change."""

import asyncio


class Changes:
    """A bell: ``announce`` wakes all who wait. Take ``next`` before looking, so that no ring is missed."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()

    def next(self) -> asyncio.Event:
        """The event that the next announcement sets."""
        return self._bell

    def announce(self) -> None:
        """Something changed."""
        self._bell.set()
        self._bell = asyncio.Event()
