"""Whether another attempt follows, and when."""

from dataclasses import dataclass

from leyden_schemas import Outcome


@dataclass(frozen=True, slots=True)
class Final:
    """The rollout is over."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt may be taken ``after_s`` from now; ``counted`` when this one cost a try."""

    after_s: float
    counted: bool = True


Next = Final | Again


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses between attempts: ``backoff_s`` after the first failure, doubling up to ``backoff_max_s``."""

    backoff_s: float = 1.0
    backoff_max_s: float = 30.0

    def after(self, outcome: Outcome, *, failures: int, max_attempts: int, excused: bool = False) -> Next:
        """What follows an attempt that ended as ``outcome`` after ``failures`` earlier counted failures.

        Only infrastructure failures are retried. An ``excused`` one (the gateway or Kafka was away) costs no
        try: an outage must not use up a rollout's attempts.
        """
        if outcome is not Outcome.INFRASTRUCTURE_FAILED:
            return Final()
        if excused:
            return Again(self.backoff_s, counted=False)
        if failures + 1 >= max_attempts:
            return Final()
        return Again(min(self.backoff_s * 2.0**failures, self.backoff_max_s))
