"""What a failed send is held to mean: a worked table."""

from datetime import UTC, datetime

import pytest

from leyden_gateway.errors import MalformedAnswer, UpstreamTimedOut
from leyden_gateway.routing.failures import Failure, Verdict, dropped_model, retry_after_s, verdict
from leyden_gateway.upstream.errors import ReplicaUnavailable, UpstreamRefused

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def refusal(status: int, **headers: str) -> UpstreamRefused:
    return UpstreamRefused(status, b"{}", {name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ReplicaUnavailable("connection", "refused"), Verdict(False)),
        (ReplicaUnavailable("disconnected", "hung up"), Verdict(False)),
        (ReplicaUnavailable("pool_full", "our own limit"), Verdict(None)),
        (ReplicaUnavailable("starting", "we are not ready"), Verdict(None)),
        (ReplicaUnavailable("502", "bad gateway", refusal(502)), Verdict(False)),
        (ReplicaUnavailable("503", "loading", refusal(503, retry_after="7")), Verdict(False, 7)),
        (UpstreamTimedOut("silent"), Verdict(False)),
        (MalformedAnswer("not HTTP"), Verdict(False)),
        (refusal(504), Verdict(False)),
        (refusal(500), Verdict(None)),
        (refusal(501), Verdict(None)),
        (refusal(400), Verdict(True)),
        (refusal(404), Verdict(True)),
        (refusal(429), Verdict(True)),
        (refusal(429, retry_after="2"), Verdict(True, 2)),
        (refusal(400, retry_after="2"), Verdict(True)),
    ],
)
def test_verdicts(failure: Failure, expected: Verdict) -> None:
    assert verdict(failure, NOW) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3),
        (" 3 ", 3),
        ("0", 0),
        ("-3", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        ("9" * 400, 999999999),
        ("Thu, 01 Jan 2026 12:00:10 GMT", 10),
        ("Thu, 01 Jan 2026 12:00:10", 10),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 99 Jan 2026 12:00:10 GMT", 0),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert retry_after_s(refusal(429, retry_after=text), NOW) == seconds


def test_no_retry_after() -> None:
    assert retry_after_s(refusal(429), NOW) == 0
    assert retry_after_s(None, NOW) == 0


@pytest.mark.parametrize(
    ("status", "body", "dropped"),
    [
        (404, b'{"error": {"message": "The model `calculator@3` does not exist."}}', True),
        (404, b'{"detail":"Not Found"}', False),
        (400, b'{"error": {"message": "calculator@3: bad"}}', False),
    ],
)
def test_a_404_means_a_dropped_model_only_if_it_names_it(status: int, body: bytes, *, dropped: bool) -> None:
    assert dropped_model(UpstreamRefused(status, body, {}), "calculator@3") is dropped
