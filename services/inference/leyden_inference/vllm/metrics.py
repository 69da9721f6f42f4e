"""Metrics of driving vLLM; those of the service as a whole are in ``leyden_inference.metrics``."""

from prometheus_client import Counter, Gauge, Histogram

ENGINE_UP = Gauge("leyden_inference_engine_up", "1 while a server of vLLM takes requests.", ["engine"])
ENGINE_STARTS = Counter(
    "leyden_inference_engine_starts_total",
    "Starts of servers, by outcome: started, failed.",
    ["engine", "outcome"],
)
ENGINE_ENDED = Counter(
    "leyden_inference_engine_ended_total", "Servers that ended or fell silent by themselves.", ["engine"]
)
IN_FLIGHT = Gauge("leyden_inference_engine_requests", "Requests that a server holds.", ["engine"])
SWAP_SECONDS = Histogram(
    "leyden_inference_swap_seconds",
    "How long a server took no new requests for a change of weights, by way: reload or restart.",
    ["way"],
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500),
)
SPANNED = Counter(
    "leyden_inference_spanned_requests_total",
    "Requests that were kept over a change of weights; their answers name the version that began them.",
)
SPOILED = Counter(
    "leyden_inference_spoiled_requests_total",
    "Requests given up because weights that were not the published ones may have computed them.",
)
RESENT = Counter(
    "leyden_inference_resent_requests_total",
    "Requests sent once more, because a server had closed the connection without an answer.",
)
PROBES = Counter(
    "leyden_inference_probes_total",
    "Comparisons of what is served with what was published, by outcome: match, mismatch, stale, absent.",
    ["outcome"],
)
PROBE_DISTANCE = Gauge(
    "leyden_inference_probe_distance_nats", "Root mean square between the last probe's answers.", ["engine"]
)
PARKED = Gauge("leyden_inference_parked_requests", "Requests that wait for a version being loaded.")
PARK_TIMEOUTS = Counter(
    "leyden_inference_park_timeouts_total", "Requests that waited too long for a version."
)
TURN_SECONDS = Histogram(
    "leyden_inference_turn_seconds",
    "Waits for a turn to change weights.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
)
TURN_TIMEOUTS = Counter(
    "leyden_inference_turn_timeouts_total", "Changes of weights made without a turn, because it did not come."
)
