"""An operator's pause: new calls wait, bounded, instead of failing."""

import asyncio

from leyden_gateway import metrics
from leyden_gateway.errors import GatewayPaused


class Pause:
    """Calls look at ``paused`` first: it costs nothing, and hardly ever holds."""

    def __init__(self) -> None:
        self.paused = False
        self.waiting = 0
        self._resumed = asyncio.Event()

    def pause(self) -> None:
        """Hold new calls from now on; those under way go on."""
        self.paused = True
        self._resumed.clear()
        metrics.PAUSED.set(1)

    def resume(self) -> None:
        """Let the waiting calls, and all others, go on."""
        self.paused = False
        self._resumed.set()
        metrics.PAUSED.set(0)

    async def resumed(self, timeout_s: float) -> None:
        """Wait out a pause. Raises ``GatewayPaused`` after ``timeout_s``."""
        if not self.paused:
            return
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._resumed.wait()
        except TimeoutError:
            raise GatewayPaused(f"an operator paused the gateway over {timeout_s:g} s ago") from None
        finally:
            self.waiting -= 1
