"""Where each queue's samples are read from, so that one that floods the log does not hide the others.

A *scan* goes through the whole log once and never waits. A queue whose share of the buffer is full is left on
the log: it gets a *cursor* of its own where it was left, which reads on as there is room, and goes back to
the scan when it has caught up. Every sample is taken once, in the order of its queue. Pure.
"""

from collections import Counter
from collections.abc import Mapping


class Positions:
    """The next offset of every partition, of the scan and of each queue that is behind it."""

    def __init__(self, start: Mapping[int, int]) -> None:
        self.scan: dict[int, int] = dict(start)
        self._cursors: dict[str, dict[int, int]] = {}
        self._done: dict[str, dict[int, int]] = {}
        self._left: Counter[str] = Counter()

    @property
    def behind(self) -> list[str]:
        """The queues that have a cursor."""
        return list(self._cursors)

    def left(self, queue: str) -> int:
        """Samples of a queue that the scan has seen and left on the log."""
        return self._left[queue]

    def cursor(self, queue: str) -> dict[int, int]:
        """Where a queue that is behind goes on."""
        return dict(self._cursors[queue])

    def begun_anew(self, partition: int, offset: int) -> None:
        """The log was: it has a record where the scan had passed. What is known of the partition is void."""
        self.scan[partition] = offset
        for places in (*self._cursors.values(), *self._done.values()):
            places[partition] = min(places.get(partition, 0), offset)

    def scanned(self, queue: str, partition: int, offset: int, *, room: bool) -> bool:
        """Whether the scan takes this sample of a queue, which may have room for it."""
        cursor = self._cursors.get(queue)
        if cursor is None:
            done = self._done.get(queue, {})
            if offset < done.get(partition, 0):
                return False
            if room:
                return True
            cursor = {place: max(at, self.scan.get(place, 0)) for place, at in (self.scan | done).items()}
            self._cursors[queue] = cursor = cursor | {partition: offset}
        if offset >= cursor.get(partition, 0):
            self._left[queue] += 1
        return False

    def passed(self, partition: int, offset: int) -> None:
        """The scan goes on after a record."""
        self.scan[partition] = offset + 1

    def followed(self, queue: str, partition: int, offset: int, *, own: bool) -> None:
        """The queue's cursor goes on after a record, which may be one of the queue's ``own``."""
        if own and offset < self.scan.get(partition, 0):
            self._left[queue] -= 1
        self._cursors[queue][partition] = offset + 1

    def caught_up(self, queue: str) -> bool:
        """Whether a cursor has reached the scan, which then takes the queue's samples itself again."""
        cursor = self._cursors[queue]
        if any(cursor.get(partition, 0) < offset for partition, offset in self.scan.items()):
            return False
        self._done[queue] = self._cursors.pop(queue)
        return True

    def low(self) -> dict[int, int]:
        """The first offset of each partition that has not been dealt with."""
        return {
            partition: min([offset, *(cursor.get(partition, 0) for cursor in self._cursors.values())])
            for partition, offset in self.scan.items()
        }
