"""Every metric of the traffic with object stores."""

from prometheus_client import Counter, Histogram

BYTES = Counter("leyden_objects_bytes_total", "Bytes moved, by direction: up or down.", ["direction"])
SECONDS = Histogram(
    "leyden_objects_seconds",
    "Time of one operation, retries included: list, look, upload, fetch, delete.",
    ["operation"],
    buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120, 600, 1800),
)
FAILURES = Counter(
    "leyden_objects_failures_total",
    "Operations given up, by reason: timed_out, failed.",
    ["operation", "reason"],
)
CACHE = Counter(
    "leyden_objects_cache_total",
    "Artifacts asked of the cache, by result: hit, fetched; and evicted ones.",
    ["result"],
)
