"""What each tenant may use: calls per second, tokens per minute, calls at once.

Tokens are known only after the answer, so they are charged then: a tenant in debt waits. Everything is
counted in this process; several gateways each allow as much.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from prometheus_client import Counter

from leyden_gateway import metrics
from leyden_gateway.control.buckets import Bucket
from leyden_gateway.control.settings import EVERY_OTHER, TenantLimits
from leyden_gateway.errors import RateLimited

ENTRIES = 10_000
"""Tenants whose use is remembered; beyond, the one that called longest ago starts anew."""
IN_FLIGHT_RETRY_S = 1.0


@dataclass(slots=True)
class _Use:
    limits: TenantLimits
    label: str
    requests: Bucket | None
    tokens: Bucket | None
    charged: Counter
    in_flight: int = 0


class TenantLimiter:
    """Admits calls by the limits of their tenant."""

    def __init__(self, limits: Mapping[str, TenantLimits], now: Callable[[], float] = monotonic) -> None:
        self._limits, self._now = dict(limits), now
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    def admit(self, tenant: str) -> None:
        """Count one call in; every one admitted must be ``finish``ed. Raises ``RateLimited``."""
        use = self._use(tenant)
        if use is None:
            return
        now = self._now()
        if use.limits.max_in_flight is not None and use.in_flight >= use.limits.max_in_flight:
            raise _refusal(tenant, use, "in_flight", IN_FLIGHT_RETRY_S, now)
        if use.tokens and (wait_s := use.tokens.wait_s(1, now)):
            raise _refusal(tenant, use, "tokens", wait_s, now)
        if use.requests:
            if wait_s := use.requests.wait_s(1, now):
                raise _refusal(tenant, use, "requests", wait_s, now)
            use.requests.charge(1, now)
        use.in_flight += 1

    def finish(self, tenant: str, tokens: int) -> None:
        """Count an admitted call out, and charge what it used."""
        use = self._uses.get(tenant)
        if use is None:
            return
        use.in_flight = max(0, use.in_flight - 1)
        if use.tokens:
            use.tokens.charge(tokens, self._now())
            use.charged.inc(tokens)

    def limits(self, tenant: str) -> TenantLimits | None:
        """The tenant's own limits, else those of every other; None when there are neither."""
        return self._limits.get(tenant) or self._limits.get(EVERY_OTHER)

    def set_limits(self, tenant: str, limits: TenantLimits) -> None:
        """From now on, until the process ends. Debts are forgiven, calls in flight still count."""
        self._limits[tenant] = limits

    def left(self, tenant: str) -> dict[str, float]:
        """What the tenant has used and what is left, as far as it is limited."""
        use, now = self._use(tenant), self._now()
        if use is None:
            return {}
        left: dict[str, float] = {"in_flight": use.in_flight}
        if use.requests:
            left["requests"] = use.requests.fill(now)
        if use.tokens:
            left["tokens"] = use.tokens.fill(now)
        return left

    def _use(self, tenant: str) -> _Use | None:
        limits = self.limits(tenant)
        if limits is None:
            return None
        use = self._uses.get(tenant)
        if use is None or use.limits is not limits:
            label = tenant if tenant in self._limits else EVERY_OTHER
            use = _fresh(limits, label, self._now(), in_flight=use.in_flight if use else 0)
            self._uses[tenant] = use
            self._forget_one()
        self._uses.move_to_end(tenant)
        return use

    def _forget_one(self) -> None:
        if len(self._uses) <= ENTRIES:
            return
        idle = next((tenant for tenant, use in self._uses.items() if not use.in_flight), None)
        if idle is not None:
            del self._uses[idle]


def _fresh(limits: TenantLimits, label: str, now: float, *, in_flight: int) -> _Use:
    rate, per_minute = limits.requests_per_s, limits.tokens_per_minute
    requests = Bucket.full(rate, limits.burst or max(1, math.ceil(rate)), now) if rate else None
    tokens = Bucket.full(per_minute / 60, per_minute, now) if per_minute else None
    return _Use(limits, label, requests, tokens, metrics.TENANT_TOKENS.labels(label), in_flight)


def _refusal(tenant: str, use: _Use, limit: str, wait_s: float, now: float) -> RateLimited:
    metrics.TENANT_REFUSED.labels(use.label, limit).inc()
    allowed = {
        "in_flight": f"{use.limits.max_in_flight} calls at once",
        "requests": f"{use.limits.requests_per_s:g} calls per second" if use.limits.requests_per_s else "",
        "tokens": f"{use.limits.tokens_per_minute} tokens per minute",
    }
    text = f"tenant {tenant!r} is beyond its {allowed[limit]}; try again in {max(wait_s, 0.001):.3g} s"
    headers = _headers("requests", use.requests, now) | _headers("tokens", use.tokens, now)
    return RateLimited(text, retry_after_s=wait_s, headers=headers)


def _headers(kind: str, bucket: Bucket | None, now: float) -> dict[str, str]:
    if bucket is None:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": f"{bucket.capacity:.0f}",
        f"x-ratelimit-remaining-{kind}": str(max(0, math.floor(bucket.fill(now)))),
        f"x-ratelimit-reset-{kind}": f"{bucket.wait_s(bucket.capacity, now):.3f}s",
    }
