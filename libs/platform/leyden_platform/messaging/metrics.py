"""Every metric of the consuming side of the seam."""

from prometheus_client import Counter, Gauge

MESSAGES = Counter(
    "leyden_consumer_messages_total",
    "Messages taken in, by result: processed, retried or dead_lettered.",
    ["topic", "group", "result"],
)
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
UNAVAILABLE = Counter(
    "leyden_consumer_unavailable_total",
    "Times processing waited for something that was away.",
    ["topic", "group"],
)
