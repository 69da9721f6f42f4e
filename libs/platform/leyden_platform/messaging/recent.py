"""A bounded memory of what is over, by which late messages are told from unknown ones."""

from collections import OrderedDict
from uuid import UUID


class RecentIds:
    """The last ``capacity`` ids added; older ones are forgotten."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[UUID, None] = OrderedDict()

    def add(self, identity: UUID) -> None:
        """Remember an id, as the newest."""
        self._ids[identity] = None
        self._ids.move_to_end(identity)
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

    def discard(self, identity: UUID) -> None:
        """Forget an id, if it is remembered."""
        self._ids.pop(identity, None)

    def __contains__(self, identity: UUID) -> bool:
        return identity in self._ids

    def __len__(self) -> int:
        return len(self._ids)
