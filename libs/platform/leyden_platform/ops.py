"""The operations port of every service: Prometheus metrics, liveness and readiness."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from leyden_platform.http import HttpServer
from leyden_platform.settings import OpsSettings


class Checked(Protocol):
    """Something that knows whether it can work."""

    name: str

    def not_ready(self) -> str | None:
        """Why not, or None."""
        ...


def ops_app(checks: Sequence[Checked]) -> Starlette:
    """/metrics, /healthz (the process answers) and /readyz (503 names the components that cannot work)."""

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        waiting = {check.name: reason for check in checks if (reason := check.not_ready())}
        return JSONResponse({"ready": not waiting, "waiting": waiting}, status_code=503 if waiting else 200)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]
    )


class OpsServer:
    """Serves ``ops_app`` while entered."""

    def __init__(self, settings: OpsSettings, checks: Sequence[Checked]) -> None:
        self._server = HttpServer("ops", ops_app(checks), settings.host, settings.port)
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return self._server.port

    async def __aenter__(self) -> Self:
        self._server.bind()
        self._task = asyncio.create_task(self._server.run(self._stop), name="ops")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._stop.set()
        if self._task:
            await self._task


__all__ = ["Checked", "OpsServer", "ops_app"]
