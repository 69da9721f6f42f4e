"""The lifecycle every service shares: start components, report readiness, drain on SIGTERM, fail loudly.

A service is a list of components. They start in order; on shutdown they are asked to stop in reverse
order, each given the chance to finish what it holds. A component that dies takes the service down with
exit status 1, so that an orchestrator sees it.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog
import uvloop

from leyden_platform.environment import BadSettings, LoadedT, read_settings, unread
from leyden_platform.ops import OpsServer
from leyden_platform.settings import ServiceSettings
from leyden_platform.telemetry import configure_logging, configure_tracing

log = structlog.get_logger(__name__)


class Component(Protocol):
    """A part of a service that runs until asked to stop."""

    name: str

    def not_ready(self) -> str | None:
        """Why the component cannot work yet, or None when it can."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish what is in hand and return. Raises to fail the service."""
        ...


class DrainTimedOut(RuntimeError):
    """A component did not finish its work in the drain time."""


async def run_components(
    name: str, settings: ServiceSettings, components: Sequence[Component], stop: asyncio.Event
) -> None:
    """Run until ``stop`` is set or a component fails; then stop all in reverse order.

    Raises the first component's failure, or ``DrainTimedOut``.
    """
    ops = OpsServer(settings.ops, components)
    stops = [asyncio.Event() for _ in components]
    tasks = [
        asyncio.create_task(component.run(event), name=component.name)
        for component, event in zip(components, stops, strict=True)
    ]
    stopping = asyncio.create_task(stop.wait())
    async with ops:
        log.info("service_started", service=name, ops_port=ops.port, pid=os.getpid())
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = next((task for task in tasks if task.done() and task.exception()), None)
        log.info("service_stopping", service=name, failed=failed.get_name() if failed else None)
        stopping.cancel()
        errors = [
            error
            for task, event in reversed(list(zip(tasks, stops, strict=True)))
            if (error := await _finish(task, event, settings.drain_timeout_s))
        ]
    log.info("service_stopped", service=name)
    if errors:
        raise (failed.exception() if failed else None) or errors[0]


async def _finish(task: "asyncio.Task[None]", stop: asyncio.Event, timeout_s: float) -> BaseException | None:
    stop.set()
    done, _ = await asyncio.wait([task], timeout=timeout_s)
    if not done:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return DrainTimedOut(
            f"{task.get_name()} still had work after {timeout_s:g} s; raise the drain timeout"
        )
    return task.exception()


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def main(
    name: str,
    settings_type: type[SettingsT],
    build: Callable[[SettingsT], Awaitable[Sequence[Component]]],
) -> None:
    """The whole of a service's ``__main__``: read settings, build components, run, exit with a status."""
    settings = load_settings(settings_type)
    configure_logging(name, settings.log)
    configure_tracing(name)
    for variable in unread(settings_type):
        log.warning("setting_unknown", service=name, variable=variable, remedy="correct or remove it")

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        await run_components(name, settings, await build(settings), stop)

    try:
        uvloop.run(serve())
    except Exception as error:
        log.error("service_failed", service=name, error=f"{type(error).__name__}: {error}", exc_info=error)
        sys.exit(1)


def collect_rarely() -> None:
    """For services that handle thousands of messages a second, which leave hardly any cycles behind.

    Looking for cycles every few messages takes 5 % of the time, and more where much is held.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def load_settings(settings_type: type[LoadedT]) -> LoadedT:
    """Settings from the environment; a bad value ends the process with the variable's name and the fix."""
    try:
        return read_settings(settings_type)
    except BadSettings as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
