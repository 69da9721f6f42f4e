"""The first of several sends whose answer begins; the others are cancelled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def first_begun(
    first: Coroutine[Any, Any, T],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    *,
    after_s: float,
    discard: Callable[[T], None],
) -> tuple[T, str]:
    """The result of ``first`` or, if that takes longer than ``after_s``, of whichever is there first.

    ``second`` makes the other attempt, or None if there can be none. Beside the result: ``alone``, ``lost``
    or ``won``, the second's outcome. Fails as ``first`` does when both fail. A loser is cancelled; if it
    had just succeeded, its result is discarded.
    """
    tasks = [asyncio.ensure_future(first)]
    winner = None
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.ensure_future(other))
        winner = await _winner(tasks)
        outcome = "alone" if len(tasks) == 1 else "won" if winner is tasks[-1] else "lost"
        return winner.result(), outcome
    finally:
        for task in tasks:
            if task is not winner:
                task.cancel()
                task.add_done_callback(lambda done: _discard(done, discard))


async def _winner(tasks: list["asyncio.Task[T]"]) -> "asyncio.Task[T]":
    """The task that succeeds first; the first of ``tasks`` when all fail."""
    pending: set[asyncio.Task[T]] = set(tasks)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        good = next((task for task in tasks if task in done and not _failed(task)), None)
        if good is not None:
            return good
        if not pending:
            return tasks[0]


def _failed(task: "asyncio.Task[Any]") -> bool:
    return task.cancelled() or task.exception() is not None


def _discard(task: "asyncio.Task[T]", discard: Callable[[T], None]) -> None:
    if not _failed(task):
        discard(task.result())
