"""Free TCP ports on the loopback interface."""

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"

_LISTENERS = range(15_000, 32_000)
"""Below what kernels give to outgoing connections (Linux from 32768, others from 49152): a port from there
may be taken by anybody's connection between being found free and being listened on."""
_TRIES = 1000


class NoFreePort(OSError):
    """Hardly any port is free."""


def free_ports(count: int, *, consecutive: bool = False) -> list[int]:
    """``count`` distinct ports that nothing listens on at the moment; in a row if ``consecutive``.

    Raises ``NoFreePort``.
    """
    if consecutive:
        return _row(count)
    ports: set[int] = set()
    while len(ports) < count:
        ports |= set(_row(1))
    return list(ports)


def _row(count: int) -> list[int]:
    for _ in range(_TRIES):
        first = random.choice(_LISTENERS[: 1 - count or None])
        row = list(range(first, first + count))
        if _are_free(row):
            return row
    raise NoFreePort(f"no {count} free ports in a row between {_LISTENERS[0]} and {_LISTENERS[-1]}")


def _are_free(ports: list[int]) -> bool:
    with ExitStack() as stack:
        try:
            for port in ports:
                stack.enter_context(socket.socket()).bind((HOST, port))
        except OSError:
            return False
    return True


def accepts(port: int, *, timeout_s: float = 0.5) -> bool:
    """Whether something listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False
