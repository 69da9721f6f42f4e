"""Every metric of the inference service."""

import contextlib

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "leyden_inference_requests_total", "HTTP requests, by endpoint and status code.", ["endpoint", "status"]
)
REFUSED = Counter("leyden_inference_refused_total", "Requests refused, by reason.", ["reason"])
DISCONNECTED = Counter(
    "leyden_inference_disconnected_total", "Completions abandoned because the client went away."
)
GENERATED = Counter("leyden_inference_generated_tokens_total", "Tokens sampled.", ["model"])
PROMPTED = Counter(
    "leyden_inference_prompt_tokens_total", "Prompt tokens, by source: computed or cached.", ["source"]
)
FINISHED = Counter(
    "leyden_inference_finished_total",
    "Sequences that left the batch, by reason: stop, length, abort, error.",
    ["reason"],
)
OCCUPANCY = Gauge("leyden_inference_batch_sequences", "Sequences in the running batches.")
QUEUE = Gauge("leyden_inference_queue_sequences", "Sequences waiting to join a batch.")
STEP_SECONDS = Histogram(
    "leyden_inference_step_seconds",
    "Duration of one step, by phase: prefill or decode.",
    ["phase"],
    buckets=(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4),
)
STEP_BATCH = Histogram(
    "leyden_inference_step_sequences",
    "Sequences of one step, by phase.",
    ["phase"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
FIRST_TOKEN_SECONDS = Histogram(
    "leyden_inference_first_token_seconds",
    "From submission to the first token.",
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
LOADED = Gauge("leyden_inference_loaded_versions", "Versions in memory.", ["policy"])
SWAPS = Counter("leyden_inference_swaps_total", "Versions loaded or unloaded.", ["action"])
LOAD_SECONDS = Histogram(
    "leyden_inference_load_seconds",
    "Verifying and loading one version.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
LOAD_FAILURES = Counter(
    "leyden_inference_load_failures_total", "Versions that could not be loaded, by reason.", ["reason"]
)
MALFORMED = Counter(
    "leyden_inference_malformed_messages_total", "Messages of the models topic that could not be read."
)


def forget_model(name: str) -> None:
    """Drop the series of a version that is gone, so that their number stays bounded."""
    with contextlib.suppress(KeyError):
        GENERATED.remove(name)
