"""Several processes of one service that share its port: the kernel spreads connections among them.

The parent only starts them and passes signals on. If one of them ends, it stops the others and fails, so
that whoever runs the service sees it and starts it again whole.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

WORKER = "LEYDEN_WORKER"
"""Set in the environment of a worker to its number, from 0."""

_POLL_S = 0.1


def worker_number() -> int | None:
    """Which worker this process is; None in a service of one process."""
    number = os.environ.get(WORKER)
    return int(number) if number else None


def run_workers(environments: Sequence[Mapping[str, str]], *, drain_timeout_s: float) -> int:
    """Run this program once per environment until a signal comes or one ends; the exit status.

    Each environment is added to the present one. Workers that outlive ``drain_timeout_s`` are killed.
    """
    command = [sys.executable, *sys.orig_argv[1:]]
    parent = {**os.environ, "LEYDEN_WORKER_PARENT": str(os.getpid())}
    workers = [
        subprocess.Popen(command, env={**parent, **extra, WORKER: str(number)})
        for number, extra in enumerate(environments)
    ]
    stopping = False

    def stop(_signum: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping and all(worker.poll() is None for worker in workers):
        time.sleep(_POLL_S)
    failed = not stopping
    _stop(workers, drain_timeout_s)
    return 1 if failed or any(worker.returncode for worker in workers) else 0


def _stop(workers: Sequence["subprocess.Popen[bytes]"], drain_timeout_s: float) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            worker.terminate()
    deadline = time.monotonic() + drain_timeout_s
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def die_with_parent() -> None:
    """Ask the kernel (Linux) to end this worker when its parent ends, however that ends."""
    if parent := os.environ.get("LEYDEN_WORKER_PARENT"):
        die_with(int(parent), signal.SIGTERM)


def die_with(parent: int, signum: signal.Signals) -> None:
    """Ask the kernel (Linux) for this signal when the parent, or the thread of it that started this, ends."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signum, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
