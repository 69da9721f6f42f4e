"""What a service implements to consume: state for one partition, and how far back it still needs the log."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from leyden_platform.messaging.record import Partition, Record


class Processor(Protocol):
    """The state of one assigned partition: created on assignment, closed on revocation.

    ``handle`` is called for one record at a time, in offset order. It must publish (and await) everything
    derived from a record before its watermark passes that record.
    """

    async def handle(self, record: Record) -> None:
        """Take in one record. May raise ``MalformedMessage``, ``Rejected`` or ``Unavailable``."""
        ...

    async def tick(self) -> None:
        """Called about once a second between records: close what is past its deadline."""
        ...

    def watermark(self) -> int | None:
        """The lowest offset still needed by something open; None when nothing is."""
        ...

    async def drain(self) -> None:
        """Finish work in hand before a shutdown, without starting more."""
        ...

    async def close(self) -> None:
        """The partition was revoked: drop what is open. It will be rebuilt from the log elsewhere."""
        ...


ProcessorFactory = Callable[[Partition], Processor]


class Stateless:
    """A processor that is done with a record when its handler returns."""

    def __init__(self, handler: Callable[[Record], Awaitable[None]]) -> None:
        self._handler = handler

    async def handle(self, record: Record) -> None:
        """Delegate to the handler."""
        await self._handler(record)

    async def tick(self) -> None:
        """Nothing is ever open."""

    def watermark(self) -> int | None:
        """Nothing is ever open."""
        return None

    async def drain(self) -> None:
        """Nothing is in hand between records."""

    async def close(self) -> None:
        """Nothing to drop."""
