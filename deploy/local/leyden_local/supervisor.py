"""Starts the processes of a stack, restarts what dies, stops everything, and leaves no orphans.

Runs as its own process (``python -m leyden_local.supervisor DIRECTORY``). On Linux every child asks the
kernel for a signal when the supervisor dies, so even ``kill -9`` of it takes the stack down.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import filelock
import httpx
import psutil

from leyden.registry import RegistryClient, RegistryFailed
from leyden_local import postgres
from leyden_local.backoff import Backoff
from leyden_local.config import StackConfig
from leyden_local.plan import Ports, ProcessSpec, Stage, plan
from leyden_local.ports import accepts, free_ports
from leyden_local.state import Phase, ProcessState, StackFolder, StackState
from leyden_platform.messaging import Unavailable, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_schemas import Topics

STOP_TIMEOUT_S = 25.0
DATABASE_PREFIX = "leyden-postgres-"
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


class StackFailed(RuntimeError):
    """The stack cannot run; the text names the process and what it said last."""


EXPECTED = (StackFailed, postgres.PostgresFailed, RegistryFailed, Unavailable)


class _Stopped(Exception):
    """A signal asked the supervisor to stop while it was starting."""


def die_with_parent(signum: int) -> Callable[[], None] | None:
    """What a child runs before its program, so that the kernel signals it when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def request() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:
            os._exit(1)

    return request


class Child:
    """One process of the stack."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec, self._log = spec, log
        self.restarts = 0
        self.failed: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._started_at = 0.0
        self._restart_at: float | None = None

    def start(self) -> None:
        """Start it, in a process group of its own, its output appended to the log."""
        quit_signal = signal.SIGINT if self.spec.interrupt else signal.SIGTERM
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.spec.command,
                env=self.spec.environment or None,
                user=self.spec.user,
                cwd="/" if self.spec.user else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(quit_signal),
            )
        self._started_at, self._restart_at = time.monotonic(), None

    def revive(self) -> bool:
        """Start it again when it ended and its time has come; whether there is something new to report."""
        if self.exit_status is None or self.failed:
            return False
        now = time.monotonic()
        if self._restart_at is None:
            delay_s = self._backoff.crashed(now - self._started_at)
            if delay_s is None:
                self.failed = f"failed with status {self.exit_status}, left down:\n{self.last_words()}"
                return True
            self._restart_at = now + delay_s
        if now < self._restart_at:
            return False
        self.restarts += 1
        self.start()
        return True

    @property
    def exit_status(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self.process.poll() if self.process else None

    def ready(self) -> bool:
        """Whether it can work."""
        if self.spec.port is not None:
            return accepts(self.spec.port)
        try:
            return httpx.get(f"http://127.0.0.1:{self.spec.ops_port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def ask_to_stop(self) -> None:
        """Ask for a clean stop."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if self.spec.interrupt else signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything in its process group."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def last_words(self, lines: int = 5) -> str:
        """The end of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(_brief(line) for line in text.splitlines()[-lines:])


class Supervisor:
    """One stack, from start to stop."""

    def __init__(self, config: StackConfig) -> None:
        self.config = config
        self.folder = StackFolder(config.directory)
        self.folder.create()
        self.ports = Ports.of(free_ports(Ports.needed()), config)
        self._check_fixed_ports()
        self._data = database_folder(self.folder)
        specs = plan(config, self.folder, self.ports, self._data, _secret(self.folder))
        self.children = [Child(spec, self.folder.log(spec.name)) for spec in specs]
        self._stop = threading.Event()

    def _check_fixed_ports(self) -> None:
        for name, port in (("gateway", self.config.gateway_port), ("kafka", self.config.kafka_port)):
            if port and accepts(port):
                raise StackFailed(f"{name}: port {port} is in use; stop what listens there or choose another")

    def run(self) -> None:
        """Start, watch, stop.

        Raises ``StackFailed`` when a process cannot be started or the broker ended. Whatever is raised, every
        process is stopped and the state says why.
        """
        try:
            self._report(Phase.STARTING)
            self._start()
            self._report(Phase.RUNNING)
            while not self._stop.wait(_POLL_S * 5):
                self._restart_the_dead()
        except _Stopped:
            pass
        except Exception as error:
            self.stop_all()
            plain = isinstance(error, EXPECTED)
            self._report(Phase.FAILED, str(error) if plain else f"{type(error).__name__}: {error}")
            raise
        self._report(Phase.STOPPING)
        self.stop_all()
        self.folder.state.unlink(missing_ok=True)

    def request_stop(self, _signum: int, _frame: FrameType | None) -> None:
        """Signal handler."""
        self._stop.set()

    def _start(self) -> None:
        postgres.initialise(self._data)
        deadline = time.monotonic() + self.config.start_timeout_s
        for stage in Stage:
            children = [child for child in self.children if child.spec.stage is stage]
            for child in children:
                child.start()
            self._report(Phase.STARTING)
            self._await_ready(children, deadline)
            if stage is Stage.INFRASTRUCTURE:
                settings = KafkaSettings(bootstrap=self.ports.endpoints().kafka, idempotent=False)
                asyncio.run(ensure_topics(settings, Topics.ALL))
            if stage is Stage.REGISTRY:
                self._import_model()

    def _await_ready(self, children: Sequence[Child], deadline: float) -> None:
        waiting = list(children)
        while waiting:
            if self._stop.is_set():
                raise _Stopped
            for child in waiting:
                if child.exit_status is not None:
                    raise StackFailed(
                        f"{child.spec.name} exited with status {child.exit_status} while starting:\n"
                        f"{child.last_words()}"
                    )
            if time.monotonic() > deadline:
                names = ", ".join(child.spec.name for child in waiting)
                raise StackFailed(
                    f"not ready after {self.config.start_timeout_s:g} s: {names}; see {self.folder.logs}"
                )
            waiting = [child for child in waiting if not child.ready()]
            self._stop.wait(_POLL_S)

    def _import_model(self) -> None:
        if self.config.model is None:
            return
        registry = RegistryClient(self.ports.endpoints().registry)
        registry.import_version(self.config.policy, self.config.model, aliases=["base", "latest", "serving"])

    def _restart_the_dead(self) -> None:
        for child in self.children:
            status = child.exit_status
            if status is not None and not child.spec.restart:
                raise StackFailed(f"{child.spec.name} exited with status {status}:\n{child.last_words()}")
            if child.revive():
                self._report(Phase.RUNNING)

    def stop_all(self) -> None:
        """Stop services before infrastructure; what does not stop in time is killed."""
        for infrastructure in (False, True):
            children = [c for c in self.children if (c.spec.stage is Stage.INFRASTRUCTURE) == infrastructure]
            for child in children:
                child.ask_to_stop()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while time.monotonic() < deadline and any(c.process and c.exit_status is None for c in children):
                time.sleep(_POLL_S)
            for child in children:
                child.kill()

    def _report(self, phase: Phase, error: str | None = None) -> None:
        processes = {
            child.spec.name: ProcessState(
                pid=child.process.pid,
                restarts=child.restarts,
                ops_port=child.spec.ops_port,
                failed=child.failed,
            )
            for child in self.children
            if child.process
        }
        self.folder.write(
            StackState(
                pid=os.getpid(),
                created=psutil.Process().create_time(),
                phase=phase,
                error=error,
                endpoints=self.ports.endpoints(),
                processes=processes,
            )
        )


def _brief(line: str) -> str:
    """A structured log line as a person wants to read it; other lines as they are."""
    try:
        event = json.loads(line)
        return f"{event['event']}: {event['error']}" if "error" in event else str(event["event"])
    except (ValueError, KeyError, TypeError):
        return line


def _secret(folder: StackFolder) -> str:
    if not folder.secret.exists():
        folder.secret.touch(mode=0o600)
        folder.secret.write_text(secrets.token_urlsafe(48))
    return folder.secret.read_text()


def database_folder(folder: StackFolder) -> Path:
    """The stack's own folder, or, for root, one that the unprivileged server can reach."""
    if postgres.unprivileged_user() is None:
        return folder.directory / "postgres"
    if not folder.database.exists():
        folder.database.write_text(tempfile.mkdtemp(prefix=DATABASE_PREFIX))
        Path(folder.database.read_text()).chmod(0o755)
    return Path(folder.database.read_text()) / "data"


def main() -> None:
    """Run the stack of the folder given as the only argument."""
    folder = StackFolder(Path(sys.argv[1]))
    config = StackConfig.model_validate_json(folder.config.read_bytes())
    try:
        with filelock.FileLock(folder.lock, timeout=0):
            supervisor = Supervisor(config)
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, supervisor.request_stop)
            supervisor.run()
    except filelock.Timeout:
        sys.exit(f"another supervisor already runs the stack in {folder.directory}")
    except EXPECTED as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
