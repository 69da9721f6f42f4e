"""What the gateway is meant to reach, and whether it did."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway_bench.measure import Measurement


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of Leyden's numbers."""

    what: str
    case: str
    metric: str
    unit: str
    most: float | None = None
    least: float | None = None

    def met(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    @property
    def bound(self) -> str:
        """``≤ 350 us``."""
        sign, limit = ("≤", self.most) if self.most is not None else ("≥", self.least)
        return f"{sign} {limit:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was measured."""

    goal: Goal
    subject: str
    value: float

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.goal.met(self.value)


GOALS = (
    Goal("CPU of a recorded completion", "whole-32", "cpu_per_request", "us", most=350),
    Goal("completions on one core", "whole-32", "rps", "1/s", least=2500),
    Goal("added median latency, one at a time", "whole-1", "added_p50", "ms", most=1.0),
    Goal("CPU of a streamed chunk", "streamed-32", "cpu_per_chunk", "us", most=50),
    Goal("CPU of a streamed chunk that comes alone", "paced", "cpu_per_chunk", "us", most=50),
    Goal("memory with 5,000 slow streams", "slow-5000", "memory", "MB", most=500),
    Goal(
        "bytes of a long rollout's log to those of its unique tokens",
        "trajectory",
        "log_bytes",
        "x",
        most=1.3,
    ),
    Goal("throughput of two processes to one", "processes", "speedup", "x", least=1.2),
    Goal("200s that are not on the log", "", "missing", "records", most=0),
    Goal("200s that are on the log twice", "", "duplicated", "records", most=0),
)


def verdicts(measured: Iterable[Measurement]) -> list[Verdict]:
    """Every goal that something of Leyden's was measured for; the worst where it was several times."""
    own = [m for m in measured if m.subject.startswith("leyden")]
    found = []
    for goal in GOALS:
        values = [m for m in own if m.metric == goal.metric and m.case.startswith(goal.case)]
        if values:
            worst = max(values, key=lambda m: m.value if goal.most is not None else -m.value)
            found.append(Verdict(goal, worst.subject, worst.value))
    return found
