"""What executing one attempt takes and gives, and the part that all kinds of agents share: the deadline."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from leyden_runner.executors.launcher import CannotLaunch, Child, Exit, Gone, Launcher
from leyden_runner.outcome import Ending, Exited, Killed, NotExecuted, OutOfTime
from leyden_schemas import Task


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on what one attempt may produce, and how long a dying agent may take."""

    max_output_bytes: int = 1024 * 1024
    log_tail_bytes: int = 8 * 1024
    kill_grace_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Execution:
    """How an attempt ended, the end of its log, and the seconds it took, the function's own apart."""

    ending: Ending
    log_tail: str = ""
    duration_s: float = 0.0
    own_s: float | None = None


class Executor(Protocol):
    """Runs one agent."""

    async def execute(self, task: Task, environment: Mapping[str, str]) -> Execution:
        """Run until the agent ends or its deadline passes. Cancelling kills the agent before it returns."""
        ...


Interpret = Callable[[Child, Exit], tuple[Ending, float | None]]


async def supervise(
    launcher: Launcher,
    request: Mapping[str, Any],
    *,
    stdin: bytes,
    timeout_s: float,
    bounds: Bounds,
    interpret: Interpret,
) -> Execution:
    """Launch, wait, kill at the deadline or when cancelled; ``interpret`` says what an exit meant."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        child = await launcher.launch(
            request, stdin=stdin, result_limit=bounds.max_output_bytes + 1024, log_limit=bounds.log_tail_bytes
        )
    except CannotLaunch as error:
        return Execution(NotExecuted(str(error)))
    own_s: float | None = None
    try:
        async with asyncio.timeout(timeout_s):
            left = await asyncio.shield(child.ended)
        ending, own_s = interpret(child, left)
    except TimeoutError:
        await _kill(launcher, child, bounds.kill_grace_s)
        ending = OutOfTime(timeout_s)
    except (CannotLaunch, Gone) as error:
        ending = NotExecuted(str(error))
    except asyncio.CancelledError:
        await _kill(launcher, child, bounds.kill_grace_s)
        raise
    return Execution(ending, child.log.text(), loop.time() - began, own_s)


async def _kill(launcher: Launcher, child: Child, grace_s: float) -> None:
    """SIGTERM, then SIGKILL after ``grace_s``; returns when the process group is gone."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        launcher.signal(child, number)
        with contextlib.suppress(TimeoutError, Gone, CannotLaunch):
            async with asyncio.timeout(wait_s):
                await asyncio.shield(child.ended)
        if child.ended.done():
            return


def died(left: Exit) -> Ending:
    """The ending of a process that left no result."""
    return Killed(left.signal) if left.signal is not None else Exited(left.status or 0)
