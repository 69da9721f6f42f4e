"""Every metric of the registry. The outbox's own are in ``leyden_platform.database.relay``."""

from prometheus_client import Counter, Histogram

VERSIONS_PUBLISHED = Counter("leyden_registry_versions_published_total", "New policy versions.", ["kind"])
VERSIONS_REPEATED = Counter(
    "leyden_registry_versions_repeated_total", "Publications recognised as repeats by their version_id."
)
ALIAS_MOVES = Counter("leyden_registry_alias_moves_total", "Aliases moved.", ["cause"])
ALIAS_HELD = Counter(
    "leyden_registry_alias_held_total", "Aliases that a publication did not move, for it would be backwards."
)
RETIRED = Counter("leyden_registry_versions_retired_total", "Versions whose weights may go.")
RETIREMENTS_REFUSED = Counter(
    "leyden_registry_retirements_refused_total",
    "Versions that stayed, by what needs them: alias, pinned, newest, base, recent.",
    ["reason"],
)
PINS = Counter("leyden_registry_pins_total", "Pins set and taken away.", ["change"])
ARTIFACTS_REJECTED = Counter("leyden_registry_artifacts_rejected_total", "Artifacts refused.", ["reason"])
ARTIFACT_SECONDS = Histogram(
    "leyden_registry_artifact_verify_seconds",
    "Time to verify one artifact.",
    buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120, 600),
)
ANNOUNCED = Counter("leyden_registry_announced_again_total", "Messages enqueued again by an announcement.")
HTTP_REQUESTS = Counter(
    "leyden_registry_http_requests_total", "Requests answered.", ["route", "method", "status"]
)
HTTP_SECONDS = Histogram("leyden_registry_http_seconds", "Time to answer.", ["route", "method"])
