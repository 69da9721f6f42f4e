"""Gathering records into batches, and the bound on what is in hand."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.codec import lz4_decode, lz4_encode, zstd_decode, zstd_encode
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.messaging import PublishFailed, Rejected
from leyden_platform.messaging.batches import Batches
from leyden_platform.messaging.inflight import InFlight
from leyden_platform.messaging.producer import MAX_BATCH_BYTES, compress_quickly, key_hash
from leyden_platform.settings import KafkaSettings

DEADLINE_S = 5.0
BATCH_HEADER = 61


class Client:
    """Stands for aiokafka's producer: batches stay open until the test takes them."""

    def __init__(self) -> None:
        self.sent: list[tuple[BatchBuilder, int, asyncio.Future[None]]] = []

    async def send_batch(
        self, builder: BatchBuilder, topic: str, *, partition: int
    ) -> "asyncio.Future[None]":
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((builder, partition, answer))
        return answer

    def take(self, index: int) -> "asyncio.Future[None]":
        """What the client does when it makes a request; the future is the broker's answer."""
        builder, _partition, answer = self.sent[index]
        builder.close()
        return answer


class Bench:
    def __init__(self, timeout_s: float = DEADLINE_S, client: Client | None = None) -> None:
        self.client, self.released = client or Client(), list[int]()
        self.batches = Batches(
            self.client,
            KafkaSettings(compression=None),
            timeout_s=timeout_s,
            released=self.released.append,
        )

    def add(self, partition: int = 0, value: bytes = b"v") -> "asyncio.Future[None]":
        return self.batches.add("t", partition, b"k", value, [], len(value))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - polling a plain predicate, with a deadline
            await asyncio.sleep(0)


async def test_records_gather_until_the_client_takes_the_batch() -> None:
    bench = Bench()
    first, second = bench.add(), bench.add()
    await until(lambda: len(bench.client.sent) == 1)
    third = bench.add()
    answer = bench.client.take(0)
    fourth = bench.add()
    await until(lambda: len(bench.client.sent) == 2)
    assert [builder.record_count() for builder, _, _ in bench.client.sent] == [3, 1]
    answer.set_result(None)
    await asyncio.gather(first, second, third)
    assert not fourth.done()
    assert bench.released == [3]


async def test_partitions_have_batches_of_their_own() -> None:
    bench = Bench()
    bench.add(0), bench.add(1), bench.add(0)
    await until(lambda: len(bench.client.sent) == 2)
    assert [(partition, builder.record_count()) for builder, partition, _ in bench.client.sent] == [
        (0, 2),
        (1, 1),
    ]


async def test_a_full_batch_is_followed_by_another() -> None:
    bench = Bench()
    for _ in range(3):
        bench.add(value=b"x" * (MAX_BATCH_BYTES // 2 - 1000))
    bench.add(value=b"x" * (2 * MAX_BATCH_BYTES))
    await until(lambda: len(bench.client.sent) == 3)
    assert [builder.record_count() for builder, _, _ in bench.client.sent] == [2, 1, 1]


async def test_a_batch_may_have_to_wait_for_its_turn() -> None:
    class Busy(Client):
        """Suspends at first, as the client does behind a batch that it has not taken yet."""

        async def send_batch(
            self, builder: BatchBuilder, topic: str, *, partition: int
        ) -> "asyncio.Future[None]":
            await asyncio.wait_for(self.turn.wait(), DEADLINE_S)
            return await super().send_batch(builder, topic, partition=partition)

        turn = asyncio.Event()

    bench = Bench(client=Busy())
    waiters = [bench.add(), bench.add()]
    assert bench.client.sent == []
    Busy.turn.set()
    await until(lambda: bench.client.sent)
    bench.client.take(0).set_result(None)
    await asyncio.gather(*waiters)
    await bench.batches.flush()
    assert bench.released == [2]


async def test_a_client_that_refuses_a_batch_fails_it() -> None:
    class Closed(Client):
        async def send_batch(
            self, builder: BatchBuilder, topic: str, *, partition: int
        ) -> "asyncio.Future[None]":
            raise ProducerClosed()

    bench = Bench(client=Closed())
    with pytest.raises(PublishFailed, match="ProducerClosed"):
        await bench.add()
    assert bench.released == [1]


async def test_each_waiter_gets_an_error_of_its_own() -> None:
    bench = Bench()
    waiters = [bench.add(), bench.add()]
    await until(lambda: bench.client.sent)
    bench.client.take(0).set_exception(KafkaTimeoutError())
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert all(isinstance(error, PublishFailed) for error in errors)
    assert errors[0] is not errors[1]
    assert "t: not acknowledged: KafkaTimeoutError" in str(errors[0])


async def test_a_batch_too_large_for_the_topic_is_rejected() -> None:
    bench = Bench()
    waiter = bench.add()
    await until(lambda: bench.client.sent)
    bench.client.take(0).set_exception(MessageSizeTooLargeError())
    with pytest.raises(Rejected, match=r"max\.message\.bytes"):
        await waiter


async def test_waiting_ends_but_the_bytes_are_held_as_long_as_the_client_holds_them() -> None:
    bench = Bench(timeout_s=0.01)
    waiter = bench.add()
    with pytest.raises(PublishFailed, match=r"nothing heard from the broker within 0\.01 s"):
        await waiter
    assert bench.released == []
    bench.client.take(0).set_result(None)
    await until(lambda: bench.released == [1])


async def test_somebody_who_left_disturbs_nobody() -> None:
    bench = Bench()
    gone, staying = bench.add(), bench.add()
    gone.cancel()
    await until(lambda: bench.client.sent)
    bench.client.take(0).set_result(None)
    await staying
    assert gone.cancelled()


async def test_an_idempotent_client_closes_a_batch_by_numbering_it() -> None:
    bench = Bench()
    bench.add()
    await until(lambda: bench.client.sent)
    builder = bench.client.sent[0][0]
    builder._set_producer_state(7, 0, 0)
    bench.add()
    await until(lambda: len(bench.client.sent) == 2)
    assert builder.record_count() == 1


async def test_who_comes_later_waits_in_line() -> None:
    room = InFlight(10)
    assert room.take_now(6)
    large, small = asyncio.ensure_future(room.take(8)), asyncio.ensure_future(room.take(1))
    await asyncio.sleep(0)
    assert not room.take_now(1), "nobody overtakes the one who waits"
    room.give_back(6)
    await asyncio.gather(large, small)
    assert room.held == 9


async def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    room = InFlight(10)
    assert room.take_now(6)
    large, small = asyncio.ensure_future(room.take(8)), asyncio.ensure_future(room.take(1))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert room.held == 7


async def test_cancelled_with_the_room_already_given() -> None:
    room = InFlight(10)
    assert room.take_now(10)
    waiting = asyncio.ensure_future(room.take(4))
    await asyncio.sleep(0)
    room.give_back(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.held == 0


def test_what_is_larger_than_the_bound_goes_alone() -> None:
    room = InFlight(10)
    assert room.take_now(50)
    assert not room.take_now(1)


@given(st.binary(max_size=80), st.integers(min_value=1, max_value=64))
def test_keys_go_where_other_clients_put_them(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert key_hash(key) % count == DefaultPartitioner()(key, partitions, partitions)


@pytest.mark.parametrize(
    ("codec", "encode", "decode"), [(3, lz4_encode, lz4_decode), (4, zstd_encode, zstd_decode)]
)
def test_the_fastest_level_is_in_force(
    codec: int, encode: Callable[..., bytes], decode: Callable[..., bytes]
) -> None:
    compress_quickly()
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, 0, MAX_BATCH_BYTES)
    builder.append(0, None, None, " ".join(f"{n * n * 7919 % 10007}" for n in range(4000)).encode(), [])
    compressed = bytes(builder.build())[BATCH_HEADER:]
    records = decode(compressed)
    assert compressed == encode(records, level=1)
    assert compressed != encode(records)
