"""A broker for tests: the embedded one, or the one that ``LEYDEN_TEST_KAFKA`` names."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from await_port import await_port

from leyden_local import broker
from leyden_local.ports import free_ports


@contextmanager
def running_broker() -> Iterator[str]:
    """Its address; the embedded one lives as long as the block and is empty at first."""
    if given := os.environ.get("LEYDEN_TEST_KAFKA"):
        yield given
        return
    (port,) = free_ports(1)
    process = subprocess.Popen(
        broker.broker_command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await_port(process, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
