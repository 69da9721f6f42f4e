"""Reading the samples topic: a reader that goes through all of it, and one for every queue that is behind."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

from leyden_learner.intake import Intake
from leyden_learner.ports import Reader

_MAX_POLLED = 500
_LOOK_AHEAD = 5_000
"""Most records that are looked through before a step that could be trained is."""
_MORE_S = 0.02
"""How long the next records may take to count as being there already."""
_CATCH_UP_S = 0.5

OpenReader = Callable[[Mapping[int, int]], AbstractAsyncContextManager[Reader]]


class Reading:
    """Feeds an intake while entered. Everything raises ``Unavailable`` when the log is away."""

    def __init__(self, open_reader: OpenReader, intake: Intake) -> None:
        self._open_reader, self._intake = open_reader, intake
        self._opened = AsyncExitStack()
        self._behind: dict[str, tuple[Reader, AsyncExitStack]] = {}
        self._scan: Reader

    async def __aenter__(self) -> Self:
        self._scan = await self._opened.enter_async_context(self._open_reader(self._intake.positions.scan))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        for _, opened in self._behind.values():
            await opened.aclose()
        await self._opened.aclose()

    async def read(self, wait_s: float) -> None:
        """Take in what has arrived, waiting up to ``wait_s`` when that is nothing."""
        waiting = [queue for queue in self._intake.positions.behind if self._intake.room(queue) > 0]
        await self._look_through(_MORE_S if waiting else wait_s)
        for queue in waiting:
            await self._catch_up(queue)

    async def _look_through(self, wait_s: float) -> None:
        seen = 0
        while seen < _LOOK_AHEAD:
            records = await self._scan.poll(wait_s, max_records=_MAX_POLLED)
            if not records:
                return
            await self._intake.scan(records)
            seen, wait_s = seen + len(records), _MORE_S

    async def _catch_up(self, queue: str) -> None:
        if queue not in self._behind:
            opened = AsyncExitStack()
            reader = await opened.enter_async_context(self._open_reader(self._intake.positions.cursor(queue)))
            self._behind[queue] = reader, opened
        reader, opened = self._behind[queue]
        room = min(self._intake.room(queue), _MAX_POLLED)
        await self._intake.follow(queue, await reader.poll(_CATCH_UP_S, max_records=room))
        if self._intake.positions.caught_up(queue):
            del self._behind[queue]
            await opened.aclose()
