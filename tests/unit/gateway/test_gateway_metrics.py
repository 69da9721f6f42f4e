"""Metrics by who answered: what they are called, and how many of them are kept."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prometheus_client import REGISTRY

from leyden_gateway import metrics
from leyden_gateway.metrics import NOBODY, Latencies, Served
from leyden_schemas import CompletionStatus


def sample(name: str, served: Served, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"leyden_gateway_{name}", served._asdict() | labels)


def test_who_answered() -> None:
    assert Served.by("p", 3, "http://r") == ("p", "3", "http://r")
    assert Served.by("external:judge", None, "http://j") == ("external:judge", "", "http://j")
    assert NOBODY == ("", "", "")


def test_names_that_callers_make_up_are_no_labels() -> None:
    assert Served.by("a model nobody knows", None, "") is NOBODY


def test_the_latencies_of_those_who_answered_last_are_kept() -> None:
    kept = Latencies(kept=2)
    first, second, third = (Served.by(f"latency-{uuid4()}", 1, "http://r") for _ in range(3))
    for served in (first, second, first, third):
        upstream, first_token = kept.of(served)
        upstream.observe(1)
        first_token.observe(1)
    assert sample("upstream_seconds_count", first) == 2
    assert sample("first_token_seconds_count", second) is None
    assert sample("upstream_seconds_count", second) is None
    assert sample("upstream_seconds_count", third) == 1
    kept.of(second)[0].observe(1)
    assert sample("upstream_seconds_count", second) == 1, "it begins anew"


def test_what_else_is_counted_of_a_version_ends_with_its_latencies() -> None:
    kept = Latencies(kept=1)
    gone, stays = (Served.by(f"counted-{uuid4()}", 1, "http://r") for _ in range(2))
    fine = {"status": "ok", "untrainable": ""}
    for served in (gone, stays, gone):
        kept.of(served)
        metrics.count_recorded(record(served), 100, prompt=True)
        metrics.count_bytes("request", 7, served)
        metrics.RETRIES.labels(*served, "502").inc()
    assert sample("recorded_total", stays, **fine) is None
    assert sample("tokens_total", stays, kind="prompt") is None
    assert sample("bytes_total", stays, direction="request") is None
    assert sample("upstream_retries_total", stays, reason="502") is None
    assert sample("recorded_total", gone, **fine) == 1, "it began anew"
    assert sample("bytes_total", gone, direction="request") == 7


def record(served: Served) -> dict[str, Any]:
    return {
        "policy": served.policy,
        "version": int(served.version),
        "replica": served.replica,
        "status": CompletionStatus.OK,
        "untrainable": None,
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        "occurred_at": datetime.now(UTC),
    }


def test_a_record_is_counted_where_it_is() -> None:
    served = Served.by(f"counted-{uuid4()}", 7, "http://r")
    fine = {"status": "ok", "untrainable": ""}
    metrics.count_recorded(record(served), 100, prompt=True)
    metrics.count_recorded(record(served), 50, prompt=False)
    assert sample("recorded_total", served, **fine) == 2
    assert sample("spooled_total", served) is None
    metrics.count_recorded(record(served), 10, prompt=True, spooled=True)
    assert (sample("recorded_total", served, **fine), sample("spooled_total", served)) == (2, 1)
    assert sample("tokens_total", served, kind="sampled") == 6
    assert sample("tokens_total", served, kind="prompt") == 10
    assert sample("bytes_total", served, direction="record") == 160
