"""Waiting for a server that a test has started."""

import subprocess
import time

from leyden_local.ports import accepts

START_TIMEOUT_S = 30.0


def await_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until ``port`` accepts connections; fail when the process dies or the deadline passes."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not accepts(port):
        assert process.poll() is None, f"{process.args!r} exited with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args!r} did not listen within {START_TIMEOUT_S} s"
        time.sleep(0.05)
