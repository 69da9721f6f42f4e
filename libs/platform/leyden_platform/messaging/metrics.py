"""Every metric of the consuming side of the seam."""

import contextlib
import functools

from prometheus_client import Counter, Gauge

from leyden_platform.messaging.record import Partition

MESSAGES = Counter(
    "leyden_consumer_messages_total",
    "Messages taken in, by result: processed, retried or dead_lettered.",
    ["topic", "group", "result"],
)
messages = functools.cache(MESSAGES.labels)
"""Looking a child up costs as much as some of the work that is counted."""
DEAD_LETTERS = Counter(
    "leyden_deadletters_total", "Messages dead-lettered, by reason.", ["topic", "group", "reason"]
)
LAG = Gauge(
    "leyden_consumer_lag",
    "Messages between the committed low watermark and the end of the partition.",
    ["topic", "partition", "group"],
)
COMMITTED = Gauge(
    "leyden_consumer_committed_offset", "The committed low watermark.", ["topic", "partition", "group"]
)
POSITIONS_RESET = Counter(
    "leyden_reader_positions_reset_total",
    "Stored positions the log does not hold: before its beginning (lost) or past its end (another_log).",
    ["topic", "reason"],
)
UNAVAILABLE = Counter(
    "leyden_consumer_unavailable_total",
    "Times processing waited for something that was away.",
    ["topic", "group"],
)


def forget(partition: Partition, group: str) -> None:
    """Drop the gauges of a partition that another member measures from now on."""
    for gauge in (LAG, COMMITTED):
        with contextlib.suppress(KeyError):
            gauge.remove(partition.topic, str(partition.number), group)
