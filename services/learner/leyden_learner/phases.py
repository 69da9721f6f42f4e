"""How long each phase of a step takes, as a metric."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leyden_learner import metrics


class Phases:
    """Times the phases of one policy's steps."""

    def __init__(self, policy: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._policy, self.now_s = policy, monotonic
        self.last_s: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Observe how long the block took, if it ends well."""
        started_s = self.now_s()
        yield
        self.observe(name, self.now_s() - started_s)

    def observe(self, name: str, seconds: float) -> None:
        """Count one."""
        self.last_s[name] = seconds
        metrics.PHASE.labels(self._policy, name).observe(seconds)
