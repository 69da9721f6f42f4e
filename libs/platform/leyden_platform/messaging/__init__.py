"""The messaging seam: the only place that imports FastStream and aiokafka.

Semantics, which the contract suite in tests/contract holds against a real broker:

- ``Publisher.publish`` returns when every message is acknowledged by all in-sync replicas.
- A ``ConsumerGroup`` gives each assigned partition a ``Processor``. The committed offset of a partition
  is its processor's *low watermark*: the first offset still needed by something open. A crash replays
  from there.
- A message that cannot be decoded, or that keeps failing, goes to the dead letters after bounded retries;
  ``Unavailable`` (the database is away) is retried without dead-lettering; too large a share of bad
  messages stops the consumer.
"""

from leyden_platform.messaging.bounded import BoundedReader, Extent
from leyden_platform.messaging.consumer import ConsumerGroup
from leyden_platform.messaging.errors import (
    MessagingError,
    PoisonedStream,
    PublishFailed,
    Rejected,
    Unavailable,
)
from leyden_platform.messaging.policy import FailurePolicy
from leyden_platform.messaging.processor import Processor, ProcessorFactory, Stateless
from leyden_platform.messaging.publisher import KafkaPublisher, MemoryPublisher, Publisher
from leyden_platform.messaging.reader import LogReader
from leyden_platform.messaging.record import Partition, Record
from leyden_platform.messaging.stretch import Moment, read_stretch
from leyden_platform.messaging.topics import ensure_topics
from leyden_platform.messaging.watermark import OffsetTracker

__all__ = [
    "BoundedReader",
    "ConsumerGroup",
    "Extent",
    "FailurePolicy",
    "KafkaPublisher",
    "LogReader",
    "MemoryPublisher",
    "MessagingError",
    "Moment",
    "OffsetTracker",
    "Partition",
    "PoisonedStream",
    "Processor",
    "ProcessorFactory",
    "PublishFailed",
    "Publisher",
    "Record",
    "Rejected",
    "Stateless",
    "Unavailable",
    "ensure_topics",
    "read_stretch",
]
