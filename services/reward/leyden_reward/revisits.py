"""Late feedback that waits until its rollout was read again: one reading serves all that wait for it."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context

import structlog

from leyden_platform.messaging import Unavailable
from leyden_reward import metrics
from leyden_reward.decisions import Closed, Decision, Drop, Dropped, Revisit
from leyden_reward.history import Past

log = structlog.get_logger(__name__)

_PAUSE_S = 5.0


class Revisits:
    """Reads in the background; ``answer`` is told the offset of the feedback and what it changes."""

    def __init__(self, past: Past, answer: Callable[[int, Closed | Dropped], None]) -> None:
        self._past, self._answer = past, answer
        self._waiting: list[tuple[Revisit, Context]] = []
        self.reading: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        """What ended the reading that nobody expected."""

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, visit: Revisit) -> None:
        """Have it answered, in the context of this call, with others that wait by then."""
        self._waiting.append((visit, copy_context()))
        if self.reading is None:
            self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while self._waiting:
                asked = list(self._waiting)
                found = await self._found([visit for visit, _ in asked])
                if found is not None:
                    del self._waiting[: len(asked)]
                    for visit, context in asked:
                        context.run(self._answer, visit.offset, _outcome(found[visit.offset]))
        except Exception as error:  # noqa: BLE001 - raised by the processor, as its scorings are
            self.failure = error
        finally:
            self.reading = None

    async def _found(self, asked: Sequence[Revisit]) -> dict[int, Sequence[Decision]] | None:
        """None when the log is away; one that takes too long to read is given up."""
        try:
            with metrics.REVISIT_SECONDS.time():
                return await self._past.revisit(asked)
        except Unavailable as error:
            log.warning("past_unavailable", waiting=len(asked), error=str(error))
            await asyncio.sleep(_PAUSE_S)
            return None
        except TimeoutError:
            log.warning("past_not_read", waiting=len(asked), timeout_s=self._past.timeout_s)
            return {visit.offset: [Dropped(Drop.NOT_READABLE)] for visit in asked}


def _outcome(decisions: Sequence[Decision]) -> Closed | Dropped:
    """The revision, or why there is none; what else the reading came by was decided long ago."""
    for decision in decisions:
        if isinstance(decision, Dropped) or (isinstance(decision, Closed) and decision.trajectory.revision):
            return decision
    return Dropped(Drop.LATE)
