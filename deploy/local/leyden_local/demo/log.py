"""Watches the topics of a run and folds what arrives into tallies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from leyden_local.demo.tally import Tally
from leyden_platform.messaging import LogReader
from leyden_platform.settings import KafkaSettings
from leyden_schemas import MalformedMessage, Topics

WATCHED = (Topics.TRAJECTORIES, Topics.SAMPLES, Topics.MODELS)


class DemoFailed(RuntimeError):
    """The demo cannot go on; the text says what did not happen and where to look."""


class RunLog:
    """The tallies of a demo, kept current from the log."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self.tallies: list[Tally] = []
        self._changed = asyncio.Event()
        self._watchers: list[asyncio.Task[None]] = []

    def open(self, run: str, policy: str) -> Tally:
        """A tally of a run, from now on kept current."""
        self.tallies.append(Tally(run, policy))
        return self.tallies[-1]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator["RunLog"]:
        """Follow the topics while entered."""
        stop = asyncio.Event()
        self._watchers = [asyncio.create_task(self._watch(topic.name, stop)) for topic in WATCHED]
        try:
            yield self
        finally:
            stop.set()
            for watcher in self._watchers:
                watcher.cancel()
            await asyncio.gather(*self._watchers, return_exceptions=True)

    async def _watch(self, topic: str, stop: asyncio.Event) -> None:
        async with LogReader(self._kafka, topic) as reader:
            async for record in reader.follow(stop):
                with contextlib.suppress(MalformedMessage):
                    message = record.message()
                    for tally in self.tallies:
                        tally.take(message)
                self._changed.set()

    async def until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for a condition on the tallies. Raises ``DemoFailed`` naming ``what`` after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    await self.changed(1.0)
        except TimeoutError:
            raise DemoFailed(f"not within {timeout_s:g} s: {what}") from None

    async def changed(self, timeout_s: float) -> None:
        """Wait until something arrived, at most ``timeout_s``. Raises what ended a watcher."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        for watcher in self._watchers:
            if watcher.done() and not watcher.cancelled() and (error := watcher.exception()):
                raise error
