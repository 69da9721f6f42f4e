"""Waiting out what is away: try again with growing pauses, but never past a stop or a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import structlog

from leyden_learner import metrics

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Stopped(Exception):
    """The service was asked to stop while waiting."""


def pauses(first_s: float = 0.1, longest_s: float = 10.0) -> Iterator[float]:
    """Seconds to wait after each failure: doubling up to ``longest_s``."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, longest_s)


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait up to ``seconds``; whether ``stop`` was set."""
    try:
        async with asyncio.timeout(seconds):
            return await stop.wait()
    except TimeoutError:
        return stop.is_set()


Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Waits so many seconds, or until the event is set; whether it is."""


async def patiently(
    what: str,
    attempt: Callable[[], Awaitable[T]],
    *,
    on: tuple[type[Exception], ...],
    stop: asyncio.Event,
    failed: Callable[[str | None], None],
    deadline_s: float | None = None,
    wait: Wait = stopped_within,
) -> T:
    """The result of the first ``attempt`` that does not fail with one of ``on``.

    ``failed`` is told why after each failure, and None once it works. Raises ``Stopped`` when asked to stop
    between attempts, and the last failure when ``deadline_s`` seconds are over.
    """
    started_s = time.monotonic()
    for pause_s in pauses():
        try:
            result = await attempt()
        except on as error:
            if deadline_s is not None and time.monotonic() - started_s + pause_s > deadline_s:
                raise
            log.warning("waiting", what=what, error=str(error), again_in_s=pause_s)
            failed(f"{what}: {error}")
            if await wait(stop, pause_s):
                raise Stopped(what) from error
        else:
            failed(None)
            return result
    raise AssertionError("pauses never end")


class Patience:
    """Waits for what a policy's learner needs, counts failed tries, and knows what is waited for."""

    def __init__(self, policy: str, wait: Wait = stopped_within) -> None:
        self._policy, self.wait = policy, wait
        self.stop = asyncio.Event()
        self.waiting_for: str | None = None

    async def __call__(
        self,
        what: str,
        attempt: Callable[[], Awaitable[T]],
        on: type[Exception],
        *,
        deadline_s: float | None = None,
    ) -> T:
        """The result of ``attempt`` once it does not fail with ``on``; see ``patiently``."""

        def failed(why: str | None) -> None:
            self.waiting_for = why
            if why:
                metrics.RETRIES.labels(self._policy, what).inc()

        return await patiently(
            what,
            attempt,
            on=(on,),
            stop=self.stop,
            failed=failed,
            deadline_s=deadline_s,
            wait=self.wait,
        )
