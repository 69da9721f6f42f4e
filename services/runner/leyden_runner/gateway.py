"""Whether the gateway can be reached, so that an outage pauses work instead of using up attempts."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import structlog

from leyden_runner.metrics import GATEWAY_UP

log = structlog.get_logger(__name__)


class GatewayProbe:
    """Looks only after an attempt failed for want of infrastructure; until then the gateway counts as up."""

    def __init__(self, url: str, *, timeout_s: float = 2.0, pause_s: float = 1.0) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self._down = False
        GATEWAY_UP.set(1)

    async def look(self) -> bool:
        """Whether it accepts a connection now."""
        up = await self._connects()
        if up == self._down:
            log.info("gateway_reachable" if up else "gateway_unreachable", host=self._host, port=self._port)
        self._down = not up
        GATEWAY_UP.set(int(up))
        return up

    async def up(self) -> None:
        """Return when the gateway was not seen down, or is up again."""
        while self._down and not await self.look():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(self._pause_s)

    async def _connects(self) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
