"""The way into one server: how many calls it holds, who waits for room, and whether it is left alone.

A call takes a ``Slot`` and gives it back when its answer is closed. Room that becomes free goes directly to
who has waited longest, so that nobody who comes later can take it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from random import random
from time import monotonic

import structlog

from leyden_gateway import metrics
from leyden_gateway.routing.breaker import Breaker, Rules, State

log = structlog.get_logger(__name__)

Waiter = asyncio.Future["Slot | None"]
"""Who waits for room: given a slot, or None when it should look again."""


class Lane:
    """One server as calls see it. ``on_change`` is told whenever it can take calls again, or no longer."""

    __slots__ = (
        "_hash",
        "_on_change",
        "_rest_ends",
        "_rest_timer",
        "_timer",
        "_waiters",
        "breaker",
        "draining",
        "in_flight",
        "last_failure",
        "limit",
        "name",
        "resting",
        "url",
    )

    def __init__(
        self, url: str, *, limit: int, rules: Rules, on_change: Callable[[], None], name: str = ""
    ) -> None:
        self.url, self.name, self.limit = url, name or url, limit
        self.in_flight = 0
        self.draining = self.resting = False
        self.last_failure = ""
        self.breaker = Breaker(rules)
        self._on_change = on_change
        self._rest_ends = 0.0
        self._rest_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._hash = blake2b(self.name.encode(), digest_size=8)
        metrics.REPLICA_IN_FLIGHT.labels(self.name).set_function(lambda: self.in_flight)
        metrics.BREAKER_STATE.labels(self.name).set(self.breaker.state.value)

    def weight(self, key: bytes) -> bytes:
        """How strongly a rollout is drawn here (highest random weight hashing)."""
        mixed = self._hash.copy()
        mixed.update(key)
        return mixed.digest()

    @property
    def usable(self) -> bool:
        """Whether calls may be sent here, now or as soon as there is room."""
        return not self.draining and self.breaker.state is not State.OPEN

    @property
    def waiting(self) -> int:
        """How many wait for room here, among other places perhaps."""
        return len(self._waiters)

    def free(self) -> bool:
        """Whether there is room now; ask only while ``usable``."""
        if self.in_flight >= self.limit or self.resting:
            return False
        return self.breaker.state is State.CLOSED or not self.breaker.probing

    def take(self) -> "Slot":
        """Room for one call; only where there is some."""
        self.in_flight += 1
        return self._slot()

    def join(self, waiter: Waiter) -> None:
        """Give ``waiter`` a slot when it is its turn."""
        self._waiters[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """``waiter`` waits no longer."""
        self._waiters.pop(waiter, None)

    def drain(self, draining: bool) -> None:
        """Whether to send no new calls here; those in hand finish."""
        if self.draining != draining:
            self.draining = draining
            self._on_change()

    def probe_now(self) -> None:
        """The server has come back: do not wait for the time to be over."""
        if self._timer is not None:
            self._timer.cancel()
            self._look()

    def rest(self, seconds: float) -> None:
        """The server asked to be left alone: until then there is no room."""
        ends = monotonic() + seconds
        if seconds <= 0 or ends <= self._rest_ends:
            return
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        self._rest_ends, self.resting = ends, True
        self._rest_timer = asyncio.get_running_loop().call_later(seconds, self._rested)
        metrics.REPLICA_RESTS.labels(self.name).inc()

    def _rested(self) -> None:
        self.resting, self._rest_timer = False, None
        self._on_change()

    def _slot(self) -> "Slot":
        probe = self.breaker.state is State.HALF_OPEN
        if probe:
            self.breaker.probing = True
        return Slot(self, probe)

    # What slots tell.

    def began(self, *, probe: bool) -> None:
        """The answer to a call has begun."""
        if probe and self.breaker.state is State.HALF_OPEN:
            self.breaker.began()
            log.info("breaker_closed", replica=self.name)
            self._turned()

    def settled(self, ok: bool | None, why: str, *, probe: bool) -> None:
        """A call ended well, failed, or (None) says nothing about the server."""
        breaker, before = self.breaker, self.breaker.state
        if before is State.HALF_OPEN and not probe:
            return
        if ok:
            self.began(probe=probe)
            breaker.succeeded(monotonic())
        elif ok is False:
            self.last_failure = why
            breaker.failed(monotonic(), random())
            if breaker.state is not before:
                self._opened()
        elif before is State.HALF_OPEN:
            breaker.abandoned()
            self._on_change()

    def released(self) -> None:
        """A call is over: its room goes to the first who waits, or becomes free."""
        if self._waiters and self.breaker.state is State.CLOSED and not (self.draining or self.resting):
            while self._waiters:
                waiter, _ = self._waiters.popitem(last=False)
                if not waiter.done():
                    waiter.set_result(self._slot())
                    return
        self.in_flight -= 1

    def _opened(self) -> None:
        seconds = self.breaker.open_until - monotonic()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._look)
        metrics.BREAKER_OPENED.labels(self.name).inc()
        log.warning("breaker_opened", replica=self.name, open_s=round(seconds, 3), error=self.last_failure)
        self._turned()

    def _look(self) -> None:
        self._timer = None
        self.breaker.look(max(monotonic(), self.breaker.open_until))
        self._turned()

    def _turned(self) -> None:
        metrics.BREAKER_STATE.labels(self.name).set(self.breaker.state.value)
        self._on_change()


class Slot:
    """One call's room in a lane. ``settle`` counts once; ``release`` gives the room back, once."""

    __slots__ = ("_begun", "_probe", "_released", "_settled", "lane")

    def __init__(self, lane: Lane, probe: bool) -> None:
        self.lane, self._probe = lane, probe
        self._begun = self._settled = self._released = False

    def begin(self) -> None:
        """The call's answer has begun."""
        self._begun = True
        if self._probe:
            self.lane.began(probe=True)

    def settle(self, ok: bool | None, why: str = "") -> None:
        """What the call says about the server: fine, at fault, or (None) nothing."""
        if not self._settled:
            self._settled = True
            self.lane.settled(ok, why, probe=self._probe)

    def release(self) -> None:
        """The call is over. Unless something else was said, a server whose answer had begun is fine."""
        if not self._released:
            self._released = True
            self.settle(True if self._begun else None)
            self.lane.released()
