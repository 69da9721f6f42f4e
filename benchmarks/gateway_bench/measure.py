"""From what the load generator saw to the numbers that are reported: pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

DIRECT = "direct"
UNITS = {
    "cpu_per_request": "us",
    "cpu_per_chunk": "us",
    "stub_cpu_per_request": "us",
    "load_cpu_per_request": "us",
    "broker_cpu_per_request": "us",
    "rps": "1/s",
    "latency_p50": "ms",
    "latency_p99": "ms",
    "first_byte_p50": "ms",
    "added_p50": "ms",
    "added_p99": "ms",
    "added_first_byte_p50": "ms",
    "memory": "MB",
    "load_core_busy": "%",
    "subject_core_busy": "%",
    "errors": "requests",
}
_ADDED = {"latency_p50": "added_p50", "latency_p99": "added_p99", "first_byte_p50": "added_first_byte_p50"}


@dataclass(frozen=True)
class RunResult:
    """One run of one case. Times are seconds, memory is bytes, latencies are of the window's requests."""

    answered: int
    """Every 200 there was, warm-up and draining included."""
    requests: int
    chunks: int
    seconds: float
    latency_p50_s: float
    latency_p99_s: float
    first_byte_p50_s: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Seconds of CPU of each role: subject, stub, broker, load."""
    busy: dict[str, float] = field(default_factory=dict)
    """Share of the subject's and the load's cores that was not idle, by anybody."""
    peak_memory: int = 0
    peak_in_flight: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    completion_ids: list[str] = field(default_factory=list)
    """Of every 200 that named one."""


@dataclass(frozen=True)
class Measurement:
    """A number: the median of ``runs``."""

    subject: str
    case: str
    metric: str
    unit: str
    value: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, subject: str, case: str, metric: str, unit: str, runs: Iterable[float]) -> "Measurement":
        """The median of ``runs``, rounded as far as the numbers mean anything."""
        rounded = tuple(round(run, 3) for run in runs)
        return cls(subject, case, metric, unit, round(median(rounded), 3), rounded)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value with at least ``share`` of the (sorted) values at or below it; 0 of nothing."""
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(0, min(len(ordered), rank) - 1)]


def of_run(run: RunResult) -> dict[str, float]:
    """The metrics of one run. Those without meaning (no request, no such process) are left out."""
    metrics = {
        "load_core_busy": 100 * run.busy.get("load", 0.0),
        "subject_core_busy": 100 * run.busy.get("subject", 0.0),
        "errors": float(sum(run.errors.values())),
    }
    if "subject" in run.cpu_s:
        metrics["memory"] = run.peak_memory / 1e6
    if run.requests:
        metrics |= {
            "rps": run.requests / run.seconds,
            "latency_p50": 1e3 * run.latency_p50_s,
            "latency_p99": 1e3 * run.latency_p99_s,
            "first_byte_p50": 1e3 * run.first_byte_p50_s,
        }
    if run.requests and run.seconds:
        for role, seconds in run.cpu_s.items():
            name = "cpu_per_request" if role == "subject" else f"{role}_cpu_per_request"
            metrics[name] = 1e6 * seconds / run.requests
    if run.chunks and "subject" in run.cpu_s:
        metrics["cpu_per_chunk"] = 1e6 * run.cpu_s["subject"] / run.chunks
    return metrics


def measurements(subject: str, case: str, runs: Sequence[RunResult]) -> list[Measurement]:
    """The metrics that every run has."""
    found = [of_run(run) for run in runs]
    return [
        Measurement.of(subject, case, name, unit, [metrics[name] for metrics in found])
        for name, unit in UNITS.items()
        if found and all(name in metrics for metrics in found)
    ]


def added(measured: Iterable[Measurement]) -> list[Measurement]:
    """What each subject adds to going to the stub directly, run by run in the order they were made."""
    by_key = {(m.subject, m.case, m.metric): m for m in measured}
    found = []
    for (subject, case, metric), own in by_key.items():
        direct = by_key.get((DIRECT, case, metric))
        if metric in _ADDED and subject != DIRECT and direct:
            differences = [run - direct.value for run in own.runs]
            found.append(Measurement.of(subject, case, _ADDED[metric], own.unit, differences))
    return found


@dataclass(frozen=True)
class Accounting:
    """Completions the load generator counted, against those on the log."""

    counted: int
    missing: int
    duplicated: int
    unseen: int
    """On the log as complete, though no client saw its 200 (a connection cut after the acknowledgement)."""

    @classmethod
    def of(cls, counted: Sequence[str], recorded: Counter[str]) -> "Accounting":
        """Compare ids; ``recorded`` says how often each is on the log."""
        seen = set(counted)
        return cls(
            counted=len(counted),
            missing=sum(1 for completion in counted if not recorded[completion]) + (len(counted) - len(seen)),
            duplicated=sum(1 for number in recorded.values() if number > 1),
            unseen=sum(1 for completion in recorded if completion not in seen),
        )

    @property
    def exact(self) -> bool:
        """Whether every 200 is on the log exactly once."""
        return not self.missing and not self.duplicated

    def measurements(self, subject: str, case: str) -> list[Measurement]:
        """The same as numbers of the report."""
        return [
            Measurement.of(subject, case, name, "records", [float(value)])
            for name, value in (
                ("counted_200", self.counted),
                ("missing", self.missing),
                ("duplicated", self.duplicated),
                ("unseen", self.unseen),
            )
        ]
