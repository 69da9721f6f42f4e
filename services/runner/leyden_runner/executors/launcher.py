"""Starting agents from the runner's side: keeps a zygote process alive and watches each child's pipes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from leyden_runner.metrics import ZYGOTE_RESTARTS

log = structlog.get_logger(__name__)

_CHUNK = 65_536
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_DRAIN_CHUNKS = 16
_RESTARTS_AT_ONCE = 5
_STEADY_S = 30.0


class AgentsUnusable(RuntimeError):
    """The agents' modules cannot be imported, or the process they are forked from keeps dying."""


class CannotLaunch(RuntimeError):
    """An agent could not be started; the text says why."""


class Gone(RuntimeError):
    """The zygote died, and its children with it."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child's process ended: exactly one of the two is set."""

    status: int | None = None
    signal: int | None = None


class Tail:
    """The last ``limit`` bytes written to a pipe, and how many there were."""

    def __init__(self, limit: int) -> None:
        self._limit, self._kept, self.seen = limit, bytearray(), 0

    def add(self, chunk: bytes) -> None:
        """Append, forgetting the oldest."""
        self.seen += len(chunk)
        self._kept += chunk
        if len(self._kept) > 2 * self._limit + _CHUNK:
            del self._kept[: len(self._kept) - self._limit]

    @property
    def truncated(self) -> bool:
        """Whether something was forgotten."""
        return self.seen > self._limit

    def __bytes__(self) -> bytes:
        return bytes(self._kept[-self._limit :]) if self._limit else b""

    def text(self) -> str:
        """As text; bytes that are not UTF-8 are replaced, NUL (which Postgres refuses) too."""
        return bytes(self).decode("utf-8", "replace").replace("\x00", "\ufffd")


@dataclass(slots=True)
class Child:
    """One running agent. ``ended`` resolves to its ``Exit``, or fails with ``Gone`` or ``CannotLaunch``."""

    number: int
    result: Tail
    log: Tail
    ended: "asyncio.Future[Exit]"
    pipes: dict[int, Tail] = field(default_factory=dict)


class Launcher:
    """Forks agents from a zygote that has imported ``callables``; a ``Component``.

    ``run`` raises ``AgentsUnusable`` when the modules cannot be imported within ``start_timeout_s``.
    """

    def __init__(
        self,
        callables: Sequence[str],
        *,
        path: Sequence[str] = (),
        env: Mapping[str, str],
        start_timeout_s: float = 120.0,
    ) -> None:
        self.name = "agents"
        self._arguments = {"callables": sorted(set(callables)), "path": list(path)}
        self._env, self._start_timeout_s = dict(env), start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = asyncio.Event()
        self._closed = asyncio.Event()
        self._broken: str | None = None
        self._children: dict[int, Child] = {}
        self._last = 0

    @property
    def pid(self) -> int | None:
        """The zygote's process id."""
        return self._process.pid if self._process else None

    def not_ready(self) -> str | None:
        """Ready once the agents' modules are imported."""
        return None if self._ready.is_set() else "importing the agents"

    async def run(self, stop: asyncio.Event) -> None:
        """Keep a zygote running until ``stop``; then end it, and every agent with it."""
        stopping = asyncio.create_task(stop.wait())
        deaths = 0
        try:
            while not stop.is_set():
                await self._open()
                began = asyncio.get_running_loop().time()
                closed = asyncio.create_task(self._closed.wait())
                await asyncio.wait([stopping, closed], return_when=asyncio.FIRST_COMPLETED)
                closed.cancel()
                if stop.is_set():
                    return
                deaths = 1 if asyncio.get_running_loop().time() - began > _STEADY_S else deaths + 1
                ZYGOTE_RESTARTS.inc()
                log.error("zygote_died", status=await self._close(), deaths=deaths)
                if deaths > _RESTARTS_AT_ONCE:
                    raise AgentsUnusable(
                        f"the process that agents are forked from died {deaths} times in a row"
                    )
        finally:
            stopping.cancel()
            await self._close()

    async def _open(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._closed.clear()
        self._socket, self._broken = ours, None
        arguments = json.dumps({"descriptor": theirs.fileno(), **self._arguments})
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns once forked
            [sys.executable, "-P", "-m", "leyden_runner.executors.zygote", arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=self._env,
            start_new_session=True,
        )
        theirs.close()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_report)
        closed = asyncio.create_task(self._closed.wait())
        ready = asyncio.create_task(self._ready.wait())
        done, pending = await asyncio.wait(
            [closed, ready], timeout=self._start_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        if self._broken is not None:
            raise AgentsUnusable(
                f"cannot load the agents (LEYDEN_RUNNER_AGENTS, LEYDEN_CATALOGUE_PATH): {self._broken}"
            )
        if ready not in done:
            why = "died" if done else f"took longer than {self._start_timeout_s:g} s"
            raise AgentsUnusable(f"importing the agents {why}")
        log.info("agents_loaded", callables=self._arguments["callables"], pid=self._process.pid)

    async def _close(self) -> int | None:
        """End the zygote; its status."""
        self._ready.clear()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for child in list(self._children.values()):
            self._finish(child, Gone("the process that agents are forked from died"))
        if self._process is None:
            return None
        process, self._process = self._process, None
        try:
            return await asyncio.to_thread(process.wait, 5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return await asyncio.to_thread(process.wait)

    # -- children

    async def launch(
        self, request: Mapping[str, Any], *, stdin: bytes = b"", result_limit: int, log_limit: int
    ) -> Child:
        """Start an agent. Raises ``CannotLaunch``."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise CannotLaunch("the agents are still being imported") from None
        self._last += 1
        child = Child(
            self._last, Tail(result_limit), Tail(log_limit), asyncio.get_running_loop().create_future()
        )
        with contextlib.ExitStack() as stack:
            try:
                descriptors = self._descriptors(stack, child, json.dumps(request).encode(), stdin)
                assert self._socket is not None
                socket.send_fds(self._socket, [json.dumps({"start": child.number}).encode()], descriptors)
            except OSError as error:
                self._unwatch(child)
                raise CannotLaunch(f"cannot start the agent: {error.strerror or error}") from error
        self._children[child.number] = child
        return child

    def _descriptors(
        self, stack: contextlib.ExitStack, child: Child, request: bytes, stdin: bytes
    ) -> list[int]:
        """What the child gets: request, standard input, result and log; closed here when ``stack`` ends."""
        given = [self._file(stack, request), self._file(stack, stdin)]
        for tail in (child.result, child.log):
            read, write = os.pipe()
            child.pipes[read] = tail
            given.append(write)
            stack.callback(os.close, write)
            os.set_blocking(read, False)
            asyncio.get_running_loop().add_reader(read, self._on_output, child, read)
        return given

    @staticmethod
    def _file(stack: contextlib.ExitStack, content: bytes) -> int:
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0, dir=_MEMORY))  # noqa: SIM115
        file.write(content)
        file.seek(0)
        return file.fileno()

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Signal the whole process group of a child; nothing when it has ended."""
        if child.ended.done() or self._socket is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._socket.send(json.dumps({"signal": child.number, "number": int(number)}).encode())

    def _on_output(self, child: Child, descriptor: int) -> None:
        if not self._read(child, descriptor):
            asyncio.get_running_loop().remove_reader(descriptor)

    @staticmethod
    def _read(child: Child, descriptor: int) -> bool:
        """Take one chunk; False when there is none now or ever."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        child.pipes[descriptor].add(chunk)
        return bool(chunk)

    def _on_report(self) -> None:
        try:
            assert self._socket is not None
            payload = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            payload = b""
        message: dict[str, Any] = json.loads(payload) if payload else {}
        if "ready" in message:
            self._ready.set()
        elif "ended" in message:
            if (child := self._children.get(message["ended"])) is not None:
                self._finish(child, _ending(message))
        else:
            self._broken = message.get("broken")
            if self._socket is not None:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._ready.clear()
            self._closed.set()

    def _finish(self, child: Child, ending: Exit | Exception) -> None:
        del self._children[child.number]
        for descriptor in list(child.pipes):
            for _ in range(_DRAIN_CHUNKS):
                if not self._read(child, descriptor):
                    break
        self._unwatch(child)
        if child.ended.done():
            return
        if isinstance(ending, Exit):
            child.ended.set_result(ending)
        else:
            child.ended.set_exception(ending)

    @staticmethod
    def _unwatch(child: Child) -> None:
        for descriptor in child.pipes:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        child.pipes.clear()


def _ending(message: Mapping[str, Any]) -> Exit | Exception:
    if "failed" in message:
        return CannotLaunch(message["failed"])
    return Exit(status=message.get("status"), signal=message.get("signal"))
