"""Reading request bodies within a limit, and leaving off when whoever asked has gone away."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from leyden_inference.errors import RequestRefused

ResultT = TypeVar("ResultT")


BODY_TIMEOUT_S = 60.0
"""Longest time for a request's body to arrive."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ``RequestRefused``: status 413 beyond the limit, 408 when it does not arrive."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(request, limit_bytes)
    except TimeoutError:
        text = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise RequestRefused(text, status=408) from None


async def _read(request: Request, limit_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise RequestRefused(f"the body is larger than {limit_bytes} bytes", status=413)
    return bytes(body)


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """The result of ``work``, cancelled when the client goes away. Raises ``ClientDisconnect`` then."""
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait([working, gone])


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
