"""Every number the gateway decides on or drops by."""

from collections import OrderedDict
from functools import lru_cache
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

REQUESTS = Counter(
    "leyden_gateway_requests_total",
    "Calls answered, by what the caller saw.",
    ["protocol", "streamed", "status"],
)
REFUSED = Counter(
    "leyden_gateway_refused_total", "Calls refused before anything was recorded, by reason.", ["reason"]
)
RECORDED = Counter(
    "leyden_gateway_recorded_total",
    "Completions acknowledged by Kafka; spooled ones are counted apart.",
    ["policy", "version", "replica", "status", "untrainable"],
)
RECORD_FAILED = Counter(
    "leyden_gateway_record_failed_total", "Completions that Kafka did not acknowledge.", ["reason"]
)
TOKENS = Counter(
    "leyden_gateway_tokens_total",
    "Tokens of recorded completions.",
    ["policy", "version", "replica", "kind"],
)
BYTES = Counter(
    "leyden_gateway_bytes_total",
    "Bytes taken in, given out and recorded, by who answered.",
    ["policy", "version", "replica", "direction"],
)
REQUEST_SECONDS = Histogram(
    "leyden_gateway_request_seconds", "Arrival to last byte.", ["streamed"], buckets=_SECONDS
)
FIRST_TOKEN_SECONDS = Histogram(
    "leyden_gateway_first_token_seconds",
    "Arrival to the first sampled token of a stream.",
    ["policy", "version", "replica"],
    buckets=_SECONDS,
)
UPSTREAM_SECONDS = Histogram(
    "leyden_gateway_upstream_seconds",
    "Sending to a replica until its last byte.",
    ["policy", "version", "replica"],
    buckets=_SECONDS,
)
RECORD_SECONDS = Histogram(
    "leyden_gateway_record_seconds", "Publishing a record until its acknowledgement.", buckets=_SECONDS
)
IN_FLIGHT = Gauge("leyden_gateway_in_flight", "Calls being served.")
PARKED = Gauge("leyden_gateway_parked", "Calls waiting for their policy version to be served.", ["policy"])
PARK_WAITS = Counter(
    "leyden_gateway_park_waits_total", "Calls that had to wait, by outcome.", ["policy", "outcome"]
)
RETRIES = Counter(
    "leyden_gateway_upstream_retries_total",
    "Sends that were repeated, by cause, and by who had failed.",
    ["policy", "version", "replica", "reason"],
)
REPLICA_UP = Gauge("leyden_gateway_replica_up", "Whether the replica answers.", ["replica"])
REPLICA_MODELS = Gauge("leyden_gateway_replica_models", "Policy versions the replica serves.", ["replica"])
ALIAS_VERSION = Gauge("leyden_gateway_alias_version", "The version an alias names.", ["policy", "alias"])
MODEL_EVENTS = Counter("leyden_gateway_model_events_total", "Messages of the models topic.", ["type"])
FEEDBACK = Counter(
    "leyden_gateway_feedback_total", "Events of feedback acknowledged by Kafka or spooled.", ["type"]
)
FEEDBACK_LOOKUPS = Counter(
    "leyden_gateway_feedback_lookups_total", "Completions that feedback named alone, by outcome.", ["outcome"]
)
TENANT_REFUSED = Counter(
    "leyden_gateway_tenant_refused_total",
    "Calls beyond a tenant's limits, by limit; tenants without limits of their own count as '*'.",
    ["tenant", "limit"],
)
TENANT_TOKENS = Counter(
    "leyden_gateway_tenant_tokens_total",
    "Prompt and sampled tokens charged to tenants with a limit of tokens; '*' as above.",
    ["tenant"],
)
PAUSED = Gauge("leyden_gateway_paused", "1 while an operator has paused new calls.")
REDACTED = Counter(
    "leyden_gateway_redacted_total",
    "Payloads that the redaction hook saw, by what became of them.",
    ["kind", "outcome"],
)
RETRIES_LINKED = Counter(
    "leyden_gateway_retries_linked_total", "Calls recorded as a client's retry of an earlier completion."
)
DELTA_SAVED = Counter(
    "leyden_gateway_delta_saved_bytes_total", "Bytes of prompts not recorded again, because the log has them."
)
DELTA_FORGOTTEN = Counter(
    "leyden_gateway_delta_forgotten_total",
    "Prompts and attempts forgotten, so that the next prompt may be recorded whole.",
    ["reason"],
)
DELTA_MEMORY = Gauge("leyden_gateway_delta_memory_bytes", "Prompts kept to record later ones as a rest.")
REPLICA_IN_FLIGHT = Gauge("leyden_gateway_replica_in_flight", "Calls a server holds.", ["replica"])
REPLICA_DRAINING = Gauge(
    "leyden_gateway_replica_draining", "1 while an operator keeps new calls from it.", ["replica"]
)
REPLICA_RESTS = Counter(
    "leyden_gateway_replica_rests_total", "Times a server's Retry-After kept new calls from it.", ["replica"]
)
BREAKER_STATE = Gauge(
    "leyden_gateway_breaker_state",
    "0 calls pass, 1 one call probes, 2 the server is left alone.",
    ["replica"],
)
BREAKER_OPENED = Counter(
    "leyden_gateway_breaker_opened_total", "Times a server failed too often and was left alone.", ["replica"]
)
OVERFLOWED = Counter(
    "leyden_gateway_overflowed_total", "Calls that went elsewhere, for want of room here.", ["replica"]
)
QUEUE_SECONDS = Histogram(
    "leyden_gateway_queue_seconds",
    "Waits of the calls that had to wait for a server.",
    ["policy"],
    buckets=_SECONDS,
)
HEDGES = Counter(
    "leyden_gateway_hedges_total", "Calls that were late and sent a second time, by outcome.", ["outcome"]
)
ALIAS_WEIGHT = Gauge(
    "leyden_gateway_alias_weight", "Share of the bare policy's traffic an alias takes.", ["policy", "alias"]
)
SPOOL_RECORDS = Gauge("leyden_gateway_spool_records", "Records on disk that are not on the log yet.")
SPOOL_BYTES = Gauge("leyden_gateway_spool_bytes", "What these count for against spool_max_bytes.")
SPOOLED = Counter(
    "leyden_gateway_spooled_total",
    "Records written to disk because Kafka was away.",
    ["policy", "version", "replica"],
)
SPOOL_DRAINED = Counter("leyden_gateway_spool_drained_total", "Spooled records that Kafka acknowledged.")
SPOOL_REFUSED = Counter(
    "leyden_gateway_spool_refused_total",
    "Records the spool could not take: full, disk or stopped.",
    ["reason"],
)
SPOOL_DROPPED = Counter(
    "leyden_gateway_spool_dropped_total", "Spooled records that the log never takes, by reason.", ["reason"]
)


@lru_cache(maxsize=1024)
def _requests(protocol: str, streamed: bool, status: int) -> Counter:
    return REQUESTS.labels(protocol, str(streamed).lower(), status)


def answered(protocol: str, *, streamed: bool, status: int) -> None:
    """Count a call by what its caller saw."""
    _requests(protocol, streamed, status).inc()


@lru_cache(maxsize=2)
def request_seconds(streamed: bool) -> Histogram:
    """The histogram of whole calls."""
    return REQUEST_SECONDS.labels(str(streamed).lower())


class Served(NamedTuple):
    """Who answered: labels of a metric, empty where nobody did."""

    policy: str = ""
    version: str = ""
    replica: str = ""

    @classmethod
    def by(cls, policy: str, version: int | None, replica: str) -> "Served":
        """The labels of a policy's version on a replica.

        Without a replica nobody answered, and the policy may be any text that a caller made up.
        """
        if not replica:
            return NOBODY
        return cls(policy, "" if version is None else str(version), replica)


NOBODY = Served()

_VERSIONS = 256
"""Versions on replicas that series are kept of, because a version is served for hours and there is always
a next one: beyond it those of the one that answered longest ago end."""
_BY_SERVED = (BYTES, FIRST_TOKEN_SECONDS, RECORDED, RETRIES, SPOOLED, TOKENS, UPSTREAM_SECONDS)


class Latencies:
    """The histograms of who answers, so many of them at most."""

    def __init__(self, kept: int = _VERSIONS) -> None:
        self._kept = kept
        self._known: OrderedDict[Served, tuple[Histogram, Histogram]] = OrderedDict()

    def of(self, served: Served) -> tuple[Histogram, Histogram]:
        """Upstream and first-token seconds."""
        found = self._known.get(served)
        if found is None:
            found = UPSTREAM_SECONDS.labels(*served), FIRST_TOKEN_SECONDS.labels(*served)
            self._known[served] = found
            if len(self._known) > self._kept:
                oldest, _ = self._known.popitem(last=False)
                _forget(oldest)
        self._known.move_to_end(served)
        return found


def _forget(served: Served) -> None:
    for metric in _BY_SERVED:
        metric.remove_by_labels(served._asdict())
    _bytes.cache_clear()
    _recorded.cache_clear()


latencies = Latencies().of
"""The histograms of a version on a replica."""


@lru_cache(maxsize=1024)
def _bytes(served: Served, direction: str) -> Counter:
    return BYTES.labels(*served, direction)


def count_bytes(direction: str, count: int, served: Served = NOBODY) -> None:
    """Count bytes of requests, answers or records."""
    _bytes(served, direction).inc(count)


@lru_cache(maxsize=1024)
def _recorded(served: Served, status: str, untrainable: str | None) -> tuple[Counter, Counter, Counter]:
    return (
        RECORDED.labels(*served, status, untrainable or ""),
        TOKENS.labels(*served, "sampled"),
        TOKENS.labels(*served, "prompt"),
    )


def count_recorded(record: dict[str, Any], size: int, *, prompt: bool, spooled: bool = False) -> None:
    """Count a record of ``size`` bytes that is kept; ``prompt`` for the first of several alternatives."""
    served = Served.by(record["policy"], record["version"], record["replica"])
    recorded, sampled, prompts = _recorded(served, record["status"].value, record["untrainable"])
    if spooled:
        SPOOLED.labels(*served).inc()
    else:
        recorded.inc()
    sampled.inc(record["usage"]["completion_tokens"])
    if prompt:
        prompts.inc(record["usage"]["prompt_tokens"])
    _bytes(served, "record").inc(size)
