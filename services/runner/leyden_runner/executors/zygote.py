"""The process that agents are forked from: it imports their modules once and forks one child per attempt.

It runs on the standard library alone (plus the agents' own imports), single-threaded, and speaks a small
protocol on a ``SOCK_SEQPACKET`` socket it inherits; every message is one JSON object:

- in ``{"start": id}`` with four descriptors: the request (JSON, see ``_child``), standard input, the
  result pipe and the log pipe;
- in ``{"signal": id, "number": n}``: signal the whole process group of an attempt;
- out ``{"ready": true}`` or ``{"broken": text}`` once the modules are imported;
- out ``{"ended": id, "status": s}`` or ``{"ended": id, "signal": n}`` or ``{"ended": id, "failed": text}``.

A child leads a session of its own. When it ends, its process group is killed *before* it is reaped, so the
group's id cannot have been given to anyone else. When the socket closes because the runner is gone, every
child is killed: nothing outlives the runner.
"""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

from leyden_runner.executors.warmup import warm_up

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MAX_ERROR = 4_000
_TASKS = Path("/proc/self/task")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def main(descriptor: int, callables: list[str], path: list[str]) -> None:
    """Import ``callables``, then fork children as told until the socket closes."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    sys.path[:0] = path
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        for target in callables:
            _resolve(target)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything; the runner reports it
        traceback.print_exc()
        control.send(json.dumps({"broken": _describe(error)[:_MAX_ERROR]}).encode())
        return
    warm_up()
    if _numbers_in(_TASKS) > {os.getpid()}:
        sys.stderr.write("leyden: importing the agents started threads; rollouts will not have them\n")
    gc.collect()
    gc.freeze()
    Zygote(control).serve()


class Zygote:
    """The children by attempt id, and the loop that starts, signals and reaps them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}
        self._wake_in, self._wake_out = os.pipe()
        for end in (self._wake_in, self._wake_out):
            os.set_blocking(end, False)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def serve(self) -> None:
        """Work until the runner is gone, then kill every child."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        self._report(ready=True)
        try:
            while self._step():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            for pid in self._children.values():
                _kill_group(pid, signal.SIGKILL)

    def _step(self) -> bool:
        watched: list[socket.socket | int] = [self._control, self._wake_in]
        readable, _, _ = select.select(watched, [], [])
        if self._wake_in in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)
            self._reap()
        if self._control in readable:
            payload, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4, socket.MSG_CMSG_CLOEXEC)
            if not payload:
                return False
            self._obey(json.loads(payload), descriptors)
        return True

    def _obey(self, message: dict[str, int], descriptors: list[int]) -> None:
        if "start" in message:
            self._start(message["start"], descriptors)
        elif (pid := self._children.get(message["signal"])) is not None:
            _kill_group(pid, message["number"])

    def _start(self, attempt: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._report(ended=attempt, failed=f"cannot fork: {error.strerror}")
            pid = -1
        if pid == 0:
            self._control.close()
            _child(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._children[attempt] = pid

    def _reap(self) -> None:
        for attempt, pid in list(self._children.items()):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                continue
            _kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self._children[attempt]
            how = "status" if ended.si_code == os.CLD_EXITED else "signal"
            self._report(ended=attempt, **{how: ended.si_status})
        self._sweep()

    def _sweep(self) -> None:
        """Kill and reap what ended attempts left behind.

        While an agent lives it adopts its own orphans; when it dies they become ours. So a child that is
        not an attempt belongs to no living attempt, even when it left the process group.
        """
        for pid in _own_children() - set(self._children.values()):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)

    def _report(self, **message: Any) -> None:
        self._control.send(json.dumps(message).encode())


def _own_children() -> set[int]:
    try:
        return {int(pid) for pid in (_TASKS / str(os.getpid()) / "children").read_text().split()}
    except OSError:
        return set()


def _numbers_in(folder: Path) -> set[int]:
    return {int(entry.name) for entry in folder.iterdir()} if folder.is_dir() else set()


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return
    with contextlib.suppress(ProcessLookupError):  # it has not called setsid yet
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


def _child(descriptors: list[int]) -> NoReturn:
    """Become the agent: own session, own environment, then call the function or execute the command."""
    status = 70
    try:
        request = _become(*descriptors)
        if request.get("command"):
            os.execvpe(request["command"][0], request["command"], os.environ)
        status = _call(request, descriptors[2])
    except FileNotFoundError as error:
        sys.stderr.write(f"cannot execute: {error}\n")
        status = 127
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - whatever happens, a child never returns into the zygote's loop
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _become(request_fd: int, input_fd: int, result_fd: int, log_fd: int) -> dict[str, Any]:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(request_fd, "rb") as file:
        request: dict[str, Any] = json.load(file)
    os.dup2(input_fd, 0)
    os.dup2(log_fd if request.get("callable") else result_fd, 1)
    os.dup2(log_fd, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    if request.get("cwd"):
        os.chdir(request["cwd"])
    return request


def _call(request: dict[str, Any], result_fd: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    function = _resolve(request["callable"])
    began = time.monotonic()
    try:
        output = function(request["input"])
        if inspect.isawaitable(output):
            output = asyncio.run(_awaited(output))
        answer = f'"returned": {_as_json(output, request["max_output_bytes"])}'
    except Exception as error:  # noqa: BLE001 - the agent's own failure is data
        traceback.print_exc()
        answer = f'"raised": {json.dumps(_failure(error))}'
    with open(result_fd, "wb") as file:
        file.write(f'{{"seconds": {time.monotonic() - began}, {answer}}}'.encode())
    return 0


def _resolve(target: str) -> Callable[..., Any]:
    """The function that ``"module:function"`` names."""
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{target} is not callable")
    return cast("Callable[..., Any]", found)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _as_json(output: Any, limit: int) -> str:
    text = json.dumps(output, allow_nan=False)
    if len(text) > limit:
        raise ValueError(f"the agent returned {len(text)} bytes of JSON; the limit is {limit}")
    return text


def _failure(error: BaseException) -> dict[str, Any]:
    """The error's text, and for itself and everything it came from: class names and an HTTP status."""
    chain: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 10:
        response = getattr(cause, "response", None)
        status = getattr(cause, "status_code", None) or getattr(response, "status_code", None)
        chain.append(
            {
                "types": [f"{kind.__module__}.{kind.__qualname__}" for kind in type(cause).__mro__],
                "http_status": status if isinstance(status, int) else None,
            }
        )
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return {"text": _describe(error)[:_MAX_ERROR], "chain": chain}


def _describe(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


if __name__ == "__main__":
    _arguments = json.loads(sys.argv[1])
    main(_arguments["descriptor"], _arguments["callables"], _arguments["path"])
