"""What tenants may use, on a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import ValidationError

from leyden_gateway.control import limits as limits_module
from leyden_gateway.control.buckets import Bucket
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.control.settings import ControlSettings, TenantLimits
from leyden_gateway.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, **tenants: TenantLimits) -> TenantLimiter:
    return TenantLimiter({name.replace("everyone", "*"): limits for name, limits in tenants.items()}, clock)


def refusal(found: TenantLimiter, tenant: str = "acme") -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        found.admit(tenant)
    return caught.value


def refused(tenant: str, limit: str) -> float:
    labels = {"tenant": tenant, "limit": limit}
    return REGISTRY.get_sample_value("leyden_gateway_tenant_refused_total", labels) or 0.0


def test_without_limits_everything_is_admitted() -> None:
    found = limiter(Clock())
    for _ in range(1000):
        found.admit("acme")
    found.finish("acme", 10**9)
    assert found.left("acme") == {}


def test_calls_per_second_with_a_burst() -> None:
    clock = Clock()
    found = limiter(clock, acme=TenantLimits(requests_per_s=2, burst=3))
    for _ in range(3):
        found.admit("acme")
    before = refused("acme", "requests")
    error = refusal(found)
    assert refused("acme", "requests") == before + 1
    assert (error.status, error.reason, error.type) == (429, "rate_limited", "rate_limit_error")
    assert str(error) == "tenant 'acme' is beyond its 2 calls per second; try again in 0.5 s"
    assert error.headers() == {
        "retry-after": "1",
        "retry-after-ms": "500",
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1.500s",
    }
    clock.now += 0.5
    found.admit("acme")
    refusal(found)


def test_the_burst_is_a_second_s_worth_by_default() -> None:
    clock = Clock()
    found = limiter(clock, slow=TenantLimits(requests_per_s=0.1), fast=TenantLimits(requests_per_s=2.5))
    found.admit("slow")
    assert refusal(found, "slow").retry_after_s == pytest.approx(10)
    for _ in range(3):
        found.admit("fast")
    refusal(found, "fast")


def test_tokens_are_charged_afterwards_and_debt_waits() -> None:
    clock = Clock()
    found = limiter(clock, acme=TenantLimits(tokens_per_minute=600))
    found.admit("acme")
    found.admit("acme")
    found.finish("acme", 700)
    error = refusal(found)
    assert error.retry_after_s == pytest.approx(10.1)
    assert error.headers()["retry-after"] == "11"
    assert error.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert error.headers()["x-ratelimit-reset-tokens"] == "70.000s"
    clock.now += 10.1
    found.admit("acme")
    assert found.left("acme") == pytest.approx({"in_flight": 2, "tokens": 1})


def test_calls_at_once() -> None:
    found = limiter(Clock(), acme=TenantLimits(max_in_flight=2))
    found.admit("acme")
    found.admit("acme")
    assert refusal(found).headers() == {"retry-after": "1", "retry-after-ms": "1000"}
    found.finish("acme", 0)
    found.admit("acme")


def test_a_refused_call_costs_nothing() -> None:
    clock = Clock()
    found = limiter(clock, acme=TenantLimits(requests_per_s=1, burst=5, max_in_flight=1))
    found.admit("acme")
    for _ in range(10):
        refusal(found)
    assert found.left("acme") == {"in_flight": 1, "requests": 4}


def test_every_other_tenant_has_its_own_share() -> None:
    found = limiter(
        Clock(), everyone=TenantLimits(requests_per_s=1), acme=TenantLimits(requests_per_s=2, burst=2)
    )
    found.admit("a")
    found.admit("b")
    before = refused("*", "requests")
    refusal(found, "a")
    assert refused("*", "requests") == before + 1
    found.admit("acme")
    found.admit("acme")


def test_new_limits_count_at_once_and_remember_who_is_in_flight() -> None:
    found = limiter(Clock())
    found.set_limits("acme", TenantLimits(max_in_flight=1))
    found.admit("acme")
    found.set_limits("acme", TenantLimits(max_in_flight=2))
    found.admit("acme")
    refusal(found)
    found.set_limits("acme", TenantLimits())
    found.admit("acme")
    assert found.left("acme") == {"in_flight": 3}


def test_a_call_admitted_before_there_were_limits_ends_well() -> None:
    found = limiter(Clock())
    found.admit("acme")
    found.set_limits("acme", TenantLimits(max_in_flight=1))
    found.finish("acme", 5)
    found.admit("acme")
    found.finish("acme", 5)
    found.finish("acme", 5)
    assert found.left("acme") == {"in_flight": 0}


def test_memory_is_bounded_and_keeps_who_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "ENTRIES", 2)
    found = limiter(Clock(), everyone=TenantLimits(max_in_flight=1))
    found.admit("busy")
    for number in range(50):
        found.admit(str(number))
        found.finish(str(number), 1)
    refusal(found, "busy")
    assert len(found._uses) == 2


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=30),
    st.floats(0.1, 10),
    st.floats(1, 20),
)
def test_a_bucket_never_gives_more_than_its_rate(
    steps: list[tuple[float, float]], per_s: float, capacity: float
) -> None:
    bucket, now, taken = Bucket.full(per_s, capacity, 0.0), 0.0, 0.0
    for after, amount in steps:
        now += after
        if not bucket.wait_s(amount, now):
            bucket.charge(amount, now)
            taken += amount
    assert taken <= capacity + now * per_s + 1e-3


@given(st.floats(0.01, 100), st.floats(1, 100), st.floats(0, 1000))
def test_whoever_waits_as_told_is_admitted(per_s: float, capacity: float, debt: float) -> None:
    bucket = Bucket.full(per_s, capacity, 0.0)
    bucket.charge(debt, 0.0)
    assert bucket.wait_s(1, bucket.wait_s(1, 0.0)) == 0


def test_a_clock_that_goes_back_adds_nothing() -> None:
    bucket = Bucket.full(1, 10, 100.0)
    bucket.charge(10, 100.0)
    assert bucket.fill(50.0) == 0
    assert bucket.fill(101.0) == 1


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "LEYDEN_GATEWAY_TENANT_LIMITS",
        '{"acme": {"requests_per_s": 5, "burst": 9}, "*": {"max_in_flight": 3}}',
    )
    assert ControlSettings().tenant_limits == {
        "acme": TenantLimits(requests_per_s=5, burst=9),
        "*": TenantLimits(max_in_flight=3),
    }


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ('{"acme": {"requests_per_s": 0}}', "greater than 0"),
        ('{"acme": {"rps": 1}}', "Extra inputs"),
        ('{"the acme": {}}', "pattern"),
        ('{"acme": {"requests_per_s": 1e999}}', "finite"),
    ],
)
def test_bad_limits_are_explained(monkeypatch: pytest.MonkeyPatch, value: str, hint: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_TENANT_LIMITS", value)
    with pytest.raises(ValidationError, match=hint):
        ControlSettings()
