"""A server of vLLM as a child process: started over a folder, heard, and ended with all that it started."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from leyden_inference.settings import InferenceSettings
from leyden_inference.vllm.client import ServerFailed, VllmClient, until_healthy

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
_LAST_LINES = 30
_LINE_BYTES = 1 << 16
_STOP_S = 10.0
_PR_SET_PDEATHSIG = 1
_INSIDE = Path(__file__).parent / "inside"
_SWITCHES = {
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
}
"""Routes that change weights exist in development mode only; they are reached from this host alone. Idle
connections are kept for longer than we keep them (``build.KEEP_ALIVE_S``), so that we are who closes."""


class VllmProcess:
    """One child at a time. ``start`` may be called again after it ended or was stopped."""

    fresh = True

    def __init__(
        self, settings: InferenceSettings, client: VllmClient, number: int, served_name: str
    ) -> None:
        self._settings, self._client = settings, client
        self._number, self._served_name = number, served_name
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def pid(self) -> int | None:
        """The child's process id, or None without one."""
        return self._process.pid if self._process else None

    async def start(self, folder: Path) -> None:
        """Start a server over a folder and wait until it answers. Raises ``ServerFailed``."""
        await self.stop()
        self._said.clear()
        port = free_port()
        command = command_of(self._settings, folder, port, self._served_name)
        log.info("vllm_starting", engine=self._number, command=command)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                env=environment_of(self._settings.vllm.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_BYTES,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            raise ServerFailed(
                f"cannot run {command[0]!r}: {error.strerror}; set LEYDEN_INFERENCE_VLLM__COMMAND"
            ) from error
        self._listening = asyncio.create_task(self._listen(self._process))
        self._client.url = f"http://{HOST}:{port}"
        try:
            await self._until_ready(self._process)
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> None:
        """Return when the child has ended; never without one."""
        await (self._process.wait() if self._process else asyncio.Event().wait())

    async def stop(self) -> None:
        """End the child and all its processes: politely first, then not."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        _signal(process.pid, signal.SIGKILL)
        await process.wait()
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    def last_words(self) -> str:
        """The end of what the child said."""
        return "\n".join(self._said)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        limit_s = self._settings.vllm.start_timeout_s
        ready = asyncio.create_task(until_healthy(self._client))
        ended = asyncio.create_task(process.wait())
        try:
            done, _ = await asyncio.wait([ready, ended], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.wait([ready, ended])
        if ended in done:
            raise ServerFailed(
                f"vLLM ended with status {process.returncode} while starting:\n{self.last_words()}"
            )
        if ready not in done:
            limit = f"{limit_s:g} s (LEYDEN_INFERENCE_VLLM__START_TIMEOUT_S)"
            raise ServerFailed(f"vLLM did not answer within {limit}:\n{self.last_words()}")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._said.append(text)
            log.info("vllm_said", engine=self._number, text=text)


def command_of(settings: InferenceSettings, folder: Path, port: int, served_name: str) -> list[str]:
    """The command that starts a server over a folder."""
    vllm = settings.vllm
    options = {
        "--host": HOST,
        "--port": str(port),
        "--served-model-name": served_name,
        "--max-num-seqs": str(settings.max_batch),
    }
    if settings.context is not None:
        options["--max-model-len"] = str(settings.context)
    if vllm.max_loras:
        options |= {"--max-loras": str(vllm.max_loras), "--max-lora-rank": str(vllm.max_lora_rank)}
    switches = ["--disable-uvicorn-access-log", *(["--enable-lora"] if vllm.max_loras else [])]
    options["--worker-extension-cls"] = "leyden_vllm.Weights"
    flat = [part for option in options.items() for part in option]
    return [*vllm.command, str(folder), *flat, *switches, *vllm.args]


def environment_of(own: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: ours without Leyden's settings and secrets, and what weight changes need."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("LEYDEN_", "OTEL_"))
    }
    path = os.pathsep.join(filter(None, [str(_INSIDE), inherited.get("PYTHONPATH")]))
    return inherited | _SWITCHES | dict(own) | {"PYTHONPATH": path}


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> Callable[[], None] | None:
    """What the child runs before its program, so that the kernel ends it when we are killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def request() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return request


def _signal(group: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signum)
