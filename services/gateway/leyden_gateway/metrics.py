"""Every number the gateway decides on or drops by."""

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
    "leyden_gateway_recorded_total", "Completions acknowledged by Kafka.", ["policy", "status", "untrainable"]
)
RECORD_FAILED = Counter(
    "leyden_gateway_record_failed_total", "Completions that Kafka did not acknowledge.", ["reason"]
)
TOKENS = Counter("leyden_gateway_tokens_total", "Tokens of recorded completions.", ["policy", "kind"])
REQUEST_SECONDS = Histogram(
    "leyden_gateway_request_seconds", "Arrival to last byte.", ["streamed"], buckets=_SECONDS
)
FIRST_TOKEN_SECONDS = Histogram(
    "leyden_gateway_first_token_seconds", "Arrival to the first sampled token of a stream.", buckets=_SECONDS
)
UPSTREAM_SECONDS = Histogram(
    "leyden_gateway_upstream_seconds", "Sending to a replica until its last byte.", buckets=_SECONDS
)
RECORD_SECONDS = Histogram(
    "leyden_gateway_record_seconds", "Publishing a record until its acknowledgement.", buckets=_SECONDS
)
IN_FLIGHT = Gauge("leyden_gateway_in_flight", "Calls being served.")
PARKED = Gauge("leyden_gateway_parked", "Calls waiting for their policy version to be served.")
PARK_WAITS = Counter("leyden_gateway_park_waits_total", "Calls that had to wait, by outcome.", ["outcome"])
RETRIES = Counter("leyden_gateway_upstream_retries_total", "Sends that were repeated, by cause.", ["reason"])
REPLICA_UP = Gauge("leyden_gateway_replica_up", "Whether the replica answers.", ["replica"])
REPLICA_MODELS = Gauge("leyden_gateway_replica_models", "Policy versions the replica serves.", ["replica"])
ALIAS_VERSION = Gauge("leyden_gateway_alias_version", "The version an alias names.", ["policy", "alias"])
MODEL_EVENTS = Counter("leyden_gateway_model_events_total", "Messages of the models topic.", ["type"])
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
