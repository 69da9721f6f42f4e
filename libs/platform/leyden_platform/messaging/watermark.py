"""Which offsets of a partition are still open, and therefore where a restart must begin."""

from sortedcontainers import SortedDict


class OffsetTracker:
    """Multiset of open offsets with a cheap minimum.

    ``begin`` opens an offset, ``done`` closes it; several things may hold the same offset open.
    """

    def __init__(self) -> None:
        self._open: SortedDict = SortedDict()

    def begin(self, offset: int) -> None:
        """Something needs the log from ``offset`` on."""
        self._open[offset] = self._open.get(offset, 0) + 1

    def done(self, offset: int) -> None:
        """One holder of ``offset`` no longer needs it. Raises ``KeyError`` when none holds it."""
        holders = self._open[offset] - 1
        if holders:
            self._open[offset] = holders
        else:
            del self._open[offset]

    def low(self) -> int | None:
        """The first offset still needed, or None when nothing is open."""
        return self._open.peekitem(0)[0] if self._open else None

    def __len__(self) -> int:
        return len(self._open)
