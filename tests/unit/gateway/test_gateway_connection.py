"""One connection: the same answer however its bytes fall, and a clear end whatever the server does."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upstream_fakes import HELLO, Owner, Wire, wired

from leyden_gateway.upstream.connection import (
    HEAD_LIMIT,
    HIGH_WATER,
    Connection,
    ConnectionLost,
    FellSilent,
    NotHttp,
)

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: t\r\n\r\n"
)
PART = CHUNKED.index(b"hel") + 3
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"


def begun(stall_timeout_s: float = 5.0) -> tuple[Connection, Wire, Owner]:
    """A connection on which a request was sent."""
    connection, wire, owner = wired()
    connection.send(b"request", stall_timeout_s=stall_timeout_s)
    return connection, wire, owner


def turns(count: int = 3) -> "asyncio.Future[None]":
    """Some turns of the loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def step(left: int) -> None:
        if left:
            loop.call_soon(step, left - 1)
        else:
            done.set_result(None)

    step(count)
    return done


async def receive(pieces: list[bytes], *, everything: bool = False) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection is kept, of an answer that comes in pieces and then ends."""
    connection, wire, owner = begun()

    async def read() -> bytes:
        await connection.head()
        parts = []
        while part := await connection.read(everything=everything):
            parts.append(part)
        return b"".join(parts)

    reading = asyncio.create_task(read())
    for piece in pieces:
        await turns(2)
        connection.data_received(piece)
    await turns()
    if not connection.complete:
        connection.eof_received()
    body = await reading
    status = connection.status
    connection.end()
    await turns()
    assert wire.aborted != bool(owner.kept)
    assert bool(owner.gone) != bool(owner.kept)
    return status, body, bool(owner.kept)


@given(
    st.sampled_from(
        [(HELLO, 200, True), (CHUNKED, 200, True), (UNTIL_CLOSED, 200, False), (INTERIM + HELLO, 200, True)]
    ),
    st.lists(st.integers(0, 160), max_size=12),
    st.booleans(),
)
def test_how_bytes_fall_changes_nothing(
    answer: tuple[bytes, int, bool], cuts: list[int], everything: bool
) -> None:
    text, status, kept = answer
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(bounds) if a < b]
    assert asyncio.run(receive(pieces, everything=everything)) == (status, b"hello", kept)


@pytest.mark.parametrize("answer", [HELLO, CHUNKED, UNTIL_CLOSED, INTERIM + CHUNKED])
async def test_byte_by_byte(answer: bytes) -> None:
    status, body, _ = await receive([answer[i : i + 1] for i in range(len(answer))])
    assert (status, body) == (200, b"hello")


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (EMPTY, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n", True),
    ],
)
async def test_when_a_connection_is_kept(answer: bytes, kept: bool) -> None:
    assert await receive([answer]) == (int(answer[9:12]), b"", kept)


async def test_headers_are_those_of_the_answer_proper() -> None:
    connection, _, _ = begun()
    connection.data_received(
        INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-One: a\r\nx-one: b\r\n\r\n"
    )
    await connection.head()
    assert connection.headers == [(b"content-length", b"0"), (b"x-one", b"a"), (b"x-one", b"b")]
    connection.end()


async def test_a_kept_connection_is_used_again() -> None:
    connection, wire, owner = begun()
    for _ in range(3):
        connection.data_received(HELLO)
        await connection.head()
        assert await connection.read() == b"hello"
        assert await connection.read() == b""
        assert not connection.usable
        connection.end()
        assert connection.usable
        assert not connection.begun
        connection.send(b"again", stall_timeout_s=5)
    assert wire.sent == b"request" + b"again" * 3
    assert len(owner.kept) == 3
    connection.abort()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x16\x03\x01\x00",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_not_http(answer: bytes) -> None:
    connection, wire, owner = begun()
    heading = asyncio.create_task(connection.head())
    await turns()
    connection.data_received(answer)
    with pytest.raises(NotHttp):
        await heading
    await turns()
    assert wire.aborted
    assert owner.gone == [connection]
    assert not connection.usable


async def test_a_head_without_end() -> None:
    connection, _, owner = begun()
    connection.data_received(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(HEAD_LIMIT // 1024):
        connection.data_received(b"y" * 1024)
    with pytest.raises(NotHttp, match="headers"):
        await connection.head()
    await turns()
    assert owner.gone


async def test_a_chunk_that_is_no_chunk_comes_after_what_was_good() -> None:
    connection, _, _ = begun()
    connection.data_received(CHUNKED[:PART])
    await connection.head()
    assert await connection.read() == b"hel"
    connection.data_received(b"zz\r\n")
    with pytest.raises(NotHttp):
        await connection.read()


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 500 Oops\r\ncontent-length: 1\r\n\r\n!"])
async def test_more_than_one_answer_is_one_and_the_connection_is_not_kept(more: bytes) -> None:
    connection, wire, owner = begun()
    connection.data_received(HELLO + more)
    await connection.head()
    assert (connection.status, await connection.read(), await connection.read()) == (200, b"hello", b"")
    assert connection.headers == [(b"content-length", b"5")]
    connection.end()
    await turns()
    assert wire.aborted
    assert not connection.usable
    assert owner.gone == [connection]


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    connection, _, owner = begun()
    connection.data_received(HELLO)
    connection.end()
    assert connection.usable
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not connection.usable
    await turns()
    assert owner.gone == [connection]
    with pytest.raises(ConnectionLost):
        connection.send(b"again", stall_timeout_s=5)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200", HELLO[:-1], CHUNKED[:PART], CHUNKED[:-2], INTERIM], ids=range(6)
)
@pytest.mark.parametrize("everything", [False, True])
async def test_a_server_that_closes_too_early(sent: bytes, everything: bool) -> None:
    connection, _, owner = begun()
    if sent:
        connection.data_received(sent)
    connection.eof_received()
    connection.connection_lost(None)

    async def read() -> None:
        await connection.head()
        while await connection.read(everything=everything):
            pass

    with pytest.raises(ConnectionLost):
        await read()
    connection.end()
    assert owner.gone == [connection]
    assert not owner.kept


async def test_a_reset_in_an_answer_without_a_length_is_not_its_end() -> None:
    connection, _, _ = begun()
    connection.data_received(UNTIL_CLOSED)
    connection.connection_lost(ConnectionResetError("reset"))
    await connection.head()
    assert await connection.read() == b"hello"
    with pytest.raises(ConnectionLost, match="reset"):
        await connection.read()


async def test_a_server_is_made_to_wait_for_a_slow_reader() -> None:
    connection, wire, _ = begun()
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (3 * HIGH_WATER))
    piece = b"x" * (HIGH_WATER // 4)
    sent = 0
    while wire.reading:
        connection.data_received(piece)
        sent += len(piece)
    assert HIGH_WATER < sent <= HIGH_WATER + len(piece)
    await connection.head()
    assert len(await connection.read()) == sent
    assert wire.reading
    while sent < 3 * HIGH_WATER:
        connection.data_received(piece)
        sent += len(piece)
        await connection.read(everything=True) if not wire.reading else None
    connection.end()
    assert connection.usable


async def test_silence_is_noticed() -> None:
    connection, wire, _ = begun(stall_timeout_s=0.02)
    with pytest.raises(FellSilent):
        await connection.head()
    assert wire.aborted
    connection, wire, _ = begun(stall_timeout_s=0.02)
    connection.data_received(HELLO[:-1])
    await connection.head()
    assert await connection.read() == b"hell"
    with pytest.raises(FellSilent):
        await connection.read()
    assert wire.aborted


async def test_a_server_that_waits_for_us_is_not_silent() -> None:
    connection, wire, _ = begun(stall_timeout_s=0.01)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * HIGH_WATER))
    connection.data_received(b"x" * (HIGH_WATER + 1))
    assert not wire.reading
    until = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() < until:
        await turns()
    await connection.head()
    assert len(await connection.read()) == HIGH_WATER + 1
    with pytest.raises(FellSilent):
        await connection.read()


async def test_a_complete_answer_is_not_silent() -> None:
    connection, wire, owner = begun(stall_timeout_s=0.01)
    connection.data_received(HELLO)
    until = asyncio.get_running_loop().time() + 0.03
    while asyncio.get_running_loop().time() < until:
        await turns()
    assert not wire.aborted
    connection.end()
    assert owner.kept


async def test_an_answer_that_is_not_finished_costs_its_connection() -> None:
    connection, wire, owner = begun()
    connection.data_received(CHUNKED[:PART])
    await connection.head()
    connection.end()
    assert wire.aborted
    await turns()
    assert not owner.kept


async def test_the_end_of_a_stream_may_come_a_moment_late() -> None:
    connection, wire, owner = begun()
    connection.data_received(CHUNKED[:PART])
    await connection.head()
    connection.end(linger_s=5.0)
    assert not owner.kept
    assert not connection.usable
    connection.data_received(CHUNKED[PART:])
    assert owner.kept == [connection]
    assert connection.usable
    assert not wire.aborted


@pytest.mark.parametrize("more", [b"", b"5\r\nmore!\r\n"])
async def test_but_not_later(more: bytes) -> None:
    connection, wire, owner = begun()
    connection.data_received(CHUNKED[:PART])
    await connection.head()
    connection.end(linger_s=0.01)
    if more:
        connection.data_received(b"\r\n" + more)
    async with asyncio.timeout(5):
        while not owner.gone:
            await turns()
    assert wire.aborted
    assert not owner.kept


async def test_a_server_that_closes_while_it_may_be_late() -> None:
    connection, _, owner = begun()
    connection.data_received(CHUNKED[:PART])
    await connection.head()
    connection.end(linger_s=5.0)
    connection.eof_received()
    connection.connection_lost(None)
    assert owner.gone == [connection]
    assert not owner.kept


async def test_a_reader_that_is_cancelled_leaves_the_connection_to_be_ended() -> None:
    connection, wire, _ = begun()
    connection.data_received(HELLO[:-1])
    await connection.head()
    await connection.read()
    reading = asyncio.create_task(connection.read())
    await turns()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    connection.end()
    assert wire.aborted
