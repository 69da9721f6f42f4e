"""Run the gateway: ``python -m leyden_gateway``, in one process or several that share the port."""

import resource
import sys

from leyden_gateway.app import build
from leyden_gateway.settings import GatewaySettings
from leyden_platform.service import collect_rarely, load_settings, main
from leyden_platform.workers import die_with_parent, run_workers, worker_number

FILES = 65_536
"""Open files that a gateway asks for."""


def workers(settings: GatewaySettings) -> list[dict[str, str]]:
    """What differs between the processes: the ports of metrics and of the admin routes, counted up."""
    return [
        {
            "LEYDEN_OPS_PORT": _nth(settings.ops.port, number),
            "LEYDEN_GATEWAY_ADMIN_PORT": _nth(settings.control.admin_port, number),
        }
        for number in range(settings.processes)
    ]


def _nth(port: int, number: int) -> str:
    return str(port + number if port else 0)


def raise_file_limit() -> None:
    """Every call in flight holds two sockets; shells and containers often start with room for 1024."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    if worker_number() is None and (settings := load_settings(GatewaySettings)).processes > 1:
        sys.exit(run_workers(workers(settings), drain_timeout_s=settings.drain_timeout_s + 5))
    die_with_parent()
    raise_file_limit()
    collect_rarely()
    main("gateway", GatewaySettings, build)
