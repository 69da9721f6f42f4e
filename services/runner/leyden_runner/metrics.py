"""Every metric of the runner."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

TASKS_ACCEPTED = Counter("leyden_runner_tasks_accepted_total", "Tasks fanned out.", ["queue"])
TASKS_REJECTED = Counter(
    "leyden_runner_tasks_rejected_total", "Tasks sent to the dead letters, by reason.", ["reason"]
)
ROLLOUTS_ASSIGNED = Counter(
    "leyden_runner_rollouts_assigned_total", "Rollouts that tasks were fanned out to."
)
ROLLOUTS_FINISHED = Counter(
    "leyden_runner_rollouts_finished_total", "Rollouts that are over, by outcome.", ["agent", "outcome"]
)
ATTEMPTS = Counter("leyden_runner_attempts_total", "Attempts that ended, by outcome.", ["agent", "outcome"])
RETRIES = Counter(
    "leyden_runner_retries_total",
    "Attempts that another one follows, by cause: failed (costs a try), outage or given_back.",
    ["cause"],
)
DUPLICATES = Counter(
    "leyden_runner_duplicates_total", "Assignments of rollouts that were already over; skipped."
)
LEASE_LOST = Counter(
    "leyden_runner_lease_lost_total",
    "Attempts whose lease went to another, by when it showed: renewal or conclusion (a stale result, "
    "dropped), or expired (this runner took it over).",
    ["when"],
)
ACTIVE = Gauge("leyden_runner_active_rollouts", "Rollouts being executed now.")
WAITING = Gauge(
    "leyden_runner_waiting_rollouts", "Rollouts in hand that wait for a lease, a retry or a free slot."
)
SLOTS = Gauge("leyden_runner_slots", "Rollouts this runner executes at once at most.")
EXECUTION = Histogram(
    "leyden_runner_execution_seconds", "Time from lease to end of one attempt.", ["agent"], buckets=_SECONDS
)
OVERHEAD = Histogram(
    "leyden_runner_agent_overhead_seconds",
    "What executing a callable agent took beyond the function itself: fork, result, clean-up.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
GATEWAY_UP = Gauge(
    "leyden_runner_gateway_up", "1 while the gateway accepted connections when last looked at."
)
ZYGOTE_RESTARTS = Counter(
    "leyden_runner_zygote_restarts_total", "Times the process that agents are forked from was replaced."
)
