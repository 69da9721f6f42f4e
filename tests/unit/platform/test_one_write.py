"""What uvicorn writes in two pieces leaves in one, and nothing is kept back."""

import asyncio
from typing import cast

from leyden_platform.one_write import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """A transport that keeps what was written, a list for each write."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append([data])

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.writes.append(list(parts))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def wrapped() -> tuple[OneWrite, Wire]:
    wire = Wire()
    return OneWrite(cast("asyncio.Transport", wire), asyncio.get_running_loop()), wire


async def test_a_head_leaves_with_the_body_and_what_follows_by_itself() -> None:
    transport, wire = wrapped()
    transport.write(HEAD)
    assert wire.writes == []
    transport.write(b"hi")
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.writes == [[HEAD, b"hi"], [b"more"]]


async def test_a_head_that_nothing_follows_leaves_in_the_next_turn() -> None:
    transport, wire = wrapped()
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert wire.writes == [[HEAD]]


async def test_two_heads_keep_their_order() -> None:
    transport, wire = wrapped()
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    transport.write(HEAD)
    await asyncio.sleep(0)
    assert (
        b"".join(part for write in wire.writes for part in write) == b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD
    )


async def test_a_head_is_written_before_the_connection_closes_and_never_after() -> None:
    transport, wire = wrapped()
    transport.write(HEAD)
    transport.close()
    assert (wire.writes, wire.closed) == ([[HEAD]], True)
    late, gone = wrapped()
    late.write(HEAD)
    gone.closed = True
    await asyncio.sleep(0)
    assert gone.writes == []


async def test_everything_else_is_the_transports_own() -> None:
    transport, _ = wrapped()
    assert transport.get_extra_info("peername") == "the peername"
