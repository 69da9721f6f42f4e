"""How the client library's producer is set up, and what in it is made cheaper.

The numbers behind the choices are in docs/messaging.md.
"""

import functools
import sys

from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode, zstd_encode
from aiokafka.partitioner import murmur2
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from leyden_platform.messaging.connection import client_options
from leyden_platform.settings import KafkaSettings

MAX_BATCH_BYTES = 1024 * 1024
"""Before compression; fits a topic with Kafka's own default of ``max.message.bytes``."""

CODECS = {"": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Compression as a batch's attributes say it."""

_REMEMBERED_KEYS = 8192
_FASTEST = 1


def create_producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """A producer, not started, whose acknowledgements come from all in-sync replicas."""
    compress_quickly()
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        enable_idempotence=settings.idempotent,
        compression_type=settings.compression or None,
        max_request_size=settings.max_message_bytes,
        linger_ms=0,
        request_timeout_ms=int(settings.request_timeout_s * 1000),
    )


def compress_quickly() -> None:
    """Have aiokafka use the fastest level of lz4 and zstd, for all producers of the process.

    It has no setting for it, and its lz4 searches at level 9: ten times the time for a third less bytes.
    Encoders are looked up in the module of the class that builds batches, compiled or not.
    """
    module = sys.modules[DefaultRecordBatchBuilder.__module__]
    module.lz4_encode = functools.partial(lz4_encode, level=_FASTEST)  # type: ignore[attr-defined]
    module.zstd_encode = functools.partial(zstd_encode, level=_FASTEST)  # type: ignore[attr-defined]


@functools.lru_cache(_REMEMBERED_KEYS)
def key_hash(key: bytes) -> int:
    """What Kafka's own clients take modulo the number of partitions.

    Remembered, because keys come back and murmur2 is written in Python.
    """
    return int(murmur2(key)) & 0x7FFFFFFF


def estimated_size(key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> int:
    """An upper bound on what a batch of one such record takes."""
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers))
