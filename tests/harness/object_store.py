"""A server of objects over HTTP, with S3's interface, in this process; and one that never answers."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx
from moto.server import ThreadedMotoServer

from leyden_platform.objects import ObjectFolder, ObjectSettings


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, and how to talk to it."""

    url: str
    endpoint: str
    settings: ObjectSettings

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return environment(self.endpoint) | {"LEYDEN_OBJECTS_ALLOW_HTTP": "true"}

    def folder(self, name: str) -> ObjectFolder:
        """What lies below a prefix."""
        return ObjectFolder(f"{self.url}/{name}", self.settings)


def environment(endpoint: str) -> dict[str, str]:
    """The variables that every client of S3 knows."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def running_s3() -> Iterator[str]:
    """The endpoint of a server that lives as long as the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def make_bucket(endpoint: str) -> Bucket:
    """A new bucket; transfers are cut into the smallest parts, so that a few megabytes are several."""
    name = f"bucket-{uuid4().hex[:12]}"
    httpx.put(f"{endpoint}/{name}", timeout=30).raise_for_status()
    settings = ObjectSettings(
        allow_http=True, part_bytes=5 * 1024 * 1024, request_timeout_s=60, transfer_timeout_s=120
    )
    return Bucket(f"s3://{name}", endpoint, settings)


@contextmanager
def silent_server() -> Iterator[str]:
    """The endpoint of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
