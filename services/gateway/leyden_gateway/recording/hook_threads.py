"""Threads for user code that may block: a hook that never returns holds up neither a call nor the exit."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

THREADS = 4


class HookRaised(Exception):
    """User code raised; ``args`` has the type's name."""


class HookThreads:
    """A few daemon threads. (The standard library's executors wait for their threads at exit.)"""

    def __init__(self, count: int = THREADS) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"hook-{number}", daemon=True).start()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns. Raises ``HookRaised``; a cancelled wait takes it off the queue."""
        future: Future[Any] = Future()
        self._jobs.put((future, function, arguments))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            future, function, arguments = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - user code, SystemExit included
                future.set_exception(HookRaised(type(error).__name__))
