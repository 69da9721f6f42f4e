"""What the dashboard shows: each chart as a question, the expressions that answer it, and a unit.

Rows follow the loop. Nothing here knows how Grafana lays things out; ``build.py`` does.
"""

from dataclasses import dataclass
from typing import Literal

RATE = "$__rate_interval"
POLICY = 'policy=~"$policy"'


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel. ``unit`` is Grafana's name of it; ``width`` of 24 is the whole page."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    kind: Literal["lines", "stacked", "number"] = "lines"
    minimum: float | None = 0


@dataclass(frozen=True, slots=True)
class Section:
    """A row of charts that can be folded."""

    title: str
    charts: tuple[Chart, ...]


def rate(metric: str, by: str, *matchers: str) -> str:
    """Events a second, summed by labels."""
    return f"sum by ({by}) (rate({metric}{_braces(matchers)}[{RATE}]))"


def quantile(q: float, histogram: str, by: str = "", *matchers: str) -> str:
    """A quantile of a histogram over the last moments."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{_braces(matchers)}[{RATE}])))"


def mean(histogram: str, by: str) -> str:
    """The mean of what a histogram observed over the last moments."""
    return rate(f"{histogram}_sum", by) + " / " + rate(f"{histogram}_count", by)


def newest(gauge: str, by: str, *matchers: str) -> str:
    """A gauge that replicas agree on, or lag behind one another in."""
    return f"max by ({by}) ({gauge}{_braces(matchers)})"


def total(*metrics: str) -> Query:
    """Rare events of several kinds together, 0 while there has been none, so that no panel stays empty."""
    return Query(" + ".join(f"(sum(rate({metric}[{RATE}])) or vector(0))" for metric in metrics), "all")


def _braces(matchers: tuple[str, ...]) -> str:
    return "{" + ", ".join(matchers) + "}" if matchers else ""


DROPPED = (
    "leyden_reward_events_dropped_total",
    "leyden_reward_excluded_total",
    "leyden_credit_trajectories_dropped_total",
    "leyden_credit_groups_dropped_total",
    "leyden_credit_rollouts_dropped_total",
    "leyden_credit_steps_dropped_total",
    "leyden_learner_samples_dropped_total",
)


def step(name: str, legend: str = "") -> tuple[Query, ...]:
    """A measurement of the learner's last step."""
    return (Query(newest(f"leyden_learner_{name}", "policy", POLICY), f"{{{{policy}}}} {legend}".rstrip()),)


OVERVIEW = Section(
    "Is it learning?",
    (
        Chart(
            "Version served",
            "The version that the alias serving names at the gateway.",
            (
                Query(
                    newest("leyden_gateway_alias_version", "policy", POLICY, 'alias="serving"'), "{{policy}}"
                ),
            ),
            width=4,
            kind="number",
        ),
        Chart("Learner step", "Steps trained since the run began.", step("step"), width=4, kind="number"),
        Chart(
            "Services up",
            "Processes that answer Prometheus.",
            (Query('sum(up{product="leyden"})', "up"),),
            width=4,
            kind="number",
        ),
        Chart(
            "Rollouts a minute",
            "Rollouts that are over, whatever their outcome.",
            (Query(f"60 * sum(rate(leyden_runner_rollouts_finished_total[{RATE}]))", "rollouts"),),
            width=4,
            kind="number",
        ),
        Chart(
            "Furthest behind",
            "Messages that the slowest consumer group still has to read.",
            (Query("max(sum by (topic, group) (leyden_consumer_lag))", "messages"),),
            width=4,
            kind="number",
        ),
        Chart(
            "Dead letters",
            "Messages that consumers could not process, since they started.",
            (Query("sum(leyden_deadletters_total) or vector(0)", "messages"),),
            width=4,
            kind="number",
        ),
        Chart(
            "Mean reward",
            "Mean final reward of the rollouts of the last step.",
            step("reward_mean"),
            minimum=None,
        ),
        Chart(
            "Success",
            "Share of scored rollouts with a final reward above 0.9.",
            (
                Query(
                    "1 - "
                    + rate("leyden_reward_final_bucket", "split", 'le="0.9"')
                    + " / "
                    + rate("leyden_reward_final_count", "split"),
                    "{{split}}",
                ),
            ),
            unit="percentunit",
        ),
        Chart(
            "Policy versions",
            "The newest version trained, and those that aliases name at the gateway.",
            (
                Query(newest("leyden_learner_version", "policy", POLICY), "{{policy}} trained"),
                Query(
                    newest("leyden_gateway_alias_version", "policy, alias", POLICY), "{{policy}}#{{alias}}"
                ),
            ),
        ),
        Chart(
            "Rollouts by outcome",
            "Rollouts that are over, a second.",
            (Query(rate("leyden_runner_rollouts_finished_total", "outcome"), "{{outcome}}"),),
            unit="ops",
            kind="stacked",
        ),
        Chart(
            "Staleness",
            "Versions between the one that sampled a rollout and the newest, when it is trained on.",
            (
                Query(newest("leyden_learner_staleness_mean", "policy", POLICY), "{{policy}} mean"),
                Query(
                    quantile(0.95, "leyden_learner_staleness_versions", "policy", POLICY), "{{policy}} p95"
                ),
            ),
        ),
        Chart(
            "Dropped, by reason",
            "Data that was seen and not used, at each stage of the loop.",
            (
                total(*DROPPED),
                Query(rate("leyden_reward_events_dropped_total", "reason"), "event: {{reason}}"),
                Query(rate("leyden_reward_excluded_total", "reason"), "rollout excluded: {{reason}}"),
                Query(rate("leyden_credit_trajectories_dropped_total", "reason"), "trajectory: {{reason}}"),
                Query(rate("leyden_credit_groups_dropped_total", "reason"), "group: {{reason}}"),
                Query(rate("leyden_credit_rollouts_dropped_total", "reason"), "rollout: {{reason}}"),
                Query(rate("leyden_credit_steps_dropped_total", "reason"), "step: {{reason}}"),
                Query(rate("leyden_learner_samples_dropped_total", "reason", POLICY), "sample: {{reason}}"),
            ),
            unit="ops",
        ),
    ),
)

TRAINING = Section(
    "Training",
    (
        Chart("Loss", "Weighted loss of the last step.", step("loss"), minimum=None),
        Chart(
            "KL",
            "To the sampler: half the mean squared log ratio. To the first version: k3, 0 without a KL term.",
            (
                Query(newest("leyden_learner_kl_sampler", "policy", POLICY), "{{policy}} to sampler"),
                Query(newest("leyden_learner_kl_reference", "policy", POLICY), "{{policy}} to first version"),
            ),
        ),
        Chart("Entropy", "Mean entropy of sampled tokens' distributions, nats.", step("entropy")),
        Chart("Gradient norm", "Before clipping.", step("grad_norm")),
        Chart(
            "Clipped",
            "Share of sampled tokens that a clip bound keeps from moving the policy, and which bound does.",
            (
                *step("clip_fraction"),
                *step("clip_low_fraction", "lower bound"),
                *step("clip_high_fraction", "upper bound"),
            ),
            unit="percentunit",
        ),
        Chart(
            "Ratio and importance",
            "Largest policy / sampler ratio of the last step, and its mean importance weight.",
            (*step("ratio_max", "largest ratio"), *step("importance_weight", "importance weight")),
        ),
        Chart("Learning rate", "Of the last step.", step("lr")),
        Chart(
            "Rewards of a step",
            "Mean and standard deviation of the final rewards that the last step trained on.",
            (*step("reward_mean", "mean"), *step("reward_std", "deviation")),
            minimum=None,
        ),
        Chart(
            "Advantages",
            "Of the last step: mean and standard deviation over tokens, and the largest magnitude.",
            (
                *step("advantage_mean", "mean"),
                *step("advantage_std", "deviation"),
                *step("advantage_max", "largest"),
            ),
            minimum=None,
        ),
        Chart(
            "Without effect",
            "In the last step: sampled tokens with an advantage of 0, completions cut off at their limit.",
            (
                *step("zero_advantage_share", "zero advantage"),
                *step("truncated_share", "truncated"),
            ),
            unit="percentunit",
        ),
        Chart(
            "Completion length",
            "Sampled tokens of the last step's completions.",
            (*step("completion_length_mean", "mean"), *step("completion_length_max", "longest")),
        ),
        Chart(
            "Size of a step",
            "Rollouts trained on together, and the groups they are of.",
            (*step("rollouts", "rollouts"), *step("groups", "groups")),
        ),
        Chart(
            "Tokens trained on",
            "Tokens a second: sampled ones, and all that were read.",
            (
                Query(rate("leyden_learner_tokens_total", "policy, kind", POLICY), "{{policy}} {{kind}}"),
                *step("tokens_per_second", "while training"),
            ),
        ),
        Chart(
            "Queues",
            "Sampled tokens trained on, a second, by the queue that the tasks came through.",
            (
                Query(
                    rate("leyden_learner_queue_tokens_total", "policy, queue", POLICY), "{{policy}} {{queue}}"
                ),
            ),
            kind="stacked",
        ),
        Chart(
            "Backlog and room",
            "Rollouts that wait for a step, in memory or on the log, and those that may still be under way "
            "without going stale. At no room producers should pause.",
            (
                Query(
                    newest("leyden_learner_backlog_rollouts", "policy, queue", POLICY),
                    "{{policy}} {{queue}} waiting",
                ),
                Query(newest("leyden_learner_room_rollouts", "policy", POLICY), "{{policy}} room"),
            ),
        ),
        Chart(
            "Seconds of a step",
            "Mean duration of each phase.",
            (Query(mean("leyden_learner_phase_seconds", "phase"), "{{phase}}"),),
            unit="s",
            kind="stacked",
        ),
        Chart(
            "Waiting and refused",
            "Usable rollouts in memory; in the last ten minutes steps refused as unhealthy, and failed tries "
            "of what was away.",
            (
                Query(
                    newest("leyden_learner_buffered_rollouts", "policy", POLICY),
                    "{{policy}} rollouts waiting",
                ),
                Query(
                    "sum by (reason) (increase(leyden_learner_steps_skipped_total{" + POLICY + "}[10m]))",
                    "skipped: {{reason}}",
                ),
                Query(
                    "sum by (what) (increase(leyden_learner_retries_total{" + POLICY + "}[10m]))",
                    "away: {{what}}",
                ),
            ),
        ),
    ),
)

SERVING = Section(
    "Serving",
    (
        Chart(
            "Registry",
            "In the last ten minutes: versions published, aliases moved or held back, artifacts refused.",
            (
                Query(
                    "sum by (kind) (increase(leyden_registry_versions_published_total[10m]))",
                    "{{kind}} published",
                ),
                Query(
                    "sum by (cause) (increase(leyden_registry_alias_moves_total[10m]))",
                    "alias moved: {{cause}}",
                ),
                Query("sum(increase(leyden_registry_alias_held_total[10m]))", "alias held back"),
                Query(
                    "sum by (reason) (increase(leyden_registry_artifacts_rejected_total[10m]))",
                    "refused: {{reason}}",
                ),
            ),
        ),
        Chart(
            "Weights",
            "Versions in memory, and the mean seconds of loading one.",
            (
                Query("sum by (policy) (leyden_inference_loaded_versions)", "{{policy}} loaded"),
                Query(
                    f"sum(rate(leyden_inference_load_seconds_sum[{RATE}]))"
                    f" / sum(rate(leyden_inference_load_seconds_count[{RATE}]))",
                    "seconds of a load",
                ),
            ),
        ),
        Chart(
            "Swaps and failures",
            "Versions loaded and unloaded, and those that could not be loaded, in the last ten minutes.",
            (
                Query("sum by (action) (increase(leyden_inference_swaps_total[10m]))", "{{action}}"),
                Query(
                    "sum by (reason) (increase(leyden_inference_load_failures_total[10m]))",
                    "failed: {{reason}}",
                ),
            ),
        ),
        Chart(
            "Gateway calls",
            "By the status that the caller saw.",
            (Query(rate("leyden_gateway_requests_total", "status"), "{{status}}"),),
            unit="reqps",
            kind="stacked",
        ),
        Chart(
            "Gateway latency",
            "Arrival to last byte, and to the first token of a stream.",
            (
                Query(quantile(0.5, "leyden_gateway_request_seconds"), "p50"),
                Query(quantile(0.99, "leyden_gateway_request_seconds"), "p99"),
                Query(quantile(0.5, "leyden_gateway_first_token_seconds"), "first token p50"),
                Query(quantile(0.99, "leyden_gateway_first_token_seconds"), "first token p99"),
            ),
            unit="s",
        ),
        Chart(
            "Where the time goes",
            "Medians of a call's parts: wait for a server, the server's answer, the log's acknowledgement.",
            (
                Query(quantile(0.5, "leyden_gateway_upstream_seconds"), "server"),
                Query(quantile(0.5, "leyden_gateway_record_seconds"), "log"),
                Query(quantile(0.5, "leyden_gateway_queue_seconds"), "waiting, of those that had to"),
            ),
            unit="s",
        ),
        Chart(
            "Replica latency",
            "The slowest twentieth of each replica's answers, by the version that it served.",
            (
                Query(
                    quantile(0.95, "leyden_gateway_upstream_seconds", "policy, version, replica", POLICY),
                    "{{policy}}@{{version}} {{replica}}",
                ),
            ),
            unit="s",
        ),
        Chart(
            "In hand",
            "Calls being served, and those parked until their policy version is.",
            (
                Query("sum(leyden_gateway_in_flight)", "in flight"),
                Query("sum(leyden_gateway_parked)", "parked"),
            ),
        ),
        Chart(
            "Completions recorded",
            "Acknowledged by Kafka before the caller saw their end, and those that were not.",
            (
                Query(
                    rate("leyden_gateway_recorded_total", "policy, status", POLICY), "{{policy}} {{status}}"
                ),
                Query(rate("leyden_gateway_record_failed_total", "reason"), "not recorded: {{reason}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Refused and retried",
            "Calls refused before anything was recorded, and sends to replicas that were repeated.",
            (
                total("leyden_gateway_refused_total", "leyden_gateway_upstream_retries_total"),
                Query(rate("leyden_gateway_refused_total", "reason"), "refused: {{reason}}"),
                Query(rate("leyden_gateway_upstream_retries_total", "reason"), "retried: {{reason}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Left alone",
            "Each server's breaker: 1 while one call probes it, 2 while it gets none.",
            (Query("max by (replica) (leyden_gateway_breaker_state)", "{{replica}}"),),
        ),
        Chart(
            "Spool",
            "Production records on disk that wait for Kafka, and those that went there, a second.",
            (
                Query("sum(leyden_gateway_spool_records)", "waiting"),
                total("leyden_gateway_spooled_total"),
            ),
        ),
        Chart(
            "Gateway bytes",
            "Taken in, given out and recorded, a second.",
            (Query(rate("leyden_gateway_bytes_total", "direction"), "{{direction}}"),),
            unit="Bps",
        ),
        Chart(
            "Replicas",
            "Versions that each replica serves; 0 where it does not answer.",
            (
                Query(
                    "min by (replica) (leyden_gateway_replica_models * leyden_gateway_replica_up)",
                    "{{replica}}",
                ),
            ),
        ),
        Chart(
            "Tokens",
            "Of recorded completions, a second.",
            (Query(rate("leyden_gateway_tokens_total", "kind", POLICY), "{{kind}}"),),
        ),
        Chart(
            "Sampled by the engine",
            "Tokens a second, by version.",
            (Query(rate("leyden_inference_generated_tokens_total", "model"), "{{model}}"),),
        ),
        Chart(
            "Batch and queue",
            "Sequences decoded together, and those that wait for a place.",
            (
                Query("sum(leyden_inference_batch_sequences)", "in the batch"),
                Query("sum(leyden_inference_queue_sequences)", "waiting"),
            ),
        ),
    ),
)

EXECUTION = Section(
    "Executing agents",
    (
        Chart(
            "Rollouts in hand",
            "Executing, waiting, and the most that may execute at once.",
            (
                Query("sum(leyden_runner_active_rollouts)", "executing"),
                Query("sum(leyden_runner_waiting_rollouts)", "waiting"),
                Query("sum(leyden_runner_slots)", "slots"),
            ),
        ),
        Chart(
            "Attempts by outcome",
            "A second; a rollout may take several.",
            (Query(rate("leyden_runner_attempts_total", "agent, outcome"), "{{agent}} {{outcome}}"),),
            unit="ops",
            kind="stacked",
        ),
        Chart(
            "Seconds of an attempt",
            "From lease to end.",
            (
                Query(quantile(0.5, "leyden_runner_execution_seconds", "agent"), "{{agent}} p50"),
                Query(quantile(0.95, "leyden_runner_execution_seconds", "agent"), "{{agent}} p95"),
            ),
            unit="s",
        ),
        Chart(
            "Tasks",
            "Fanned out, and refused by reason.",
            (
                Query(rate("leyden_runner_tasks_accepted_total", "queue"), "accepted: {{queue}}"),
                Query(rate("leyden_runner_tasks_rejected_total", "reason"), "refused: {{reason}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Retries and lost leases",
            "Attempts that another follows, and those whose lease went to another runner.",
            (
                total("leyden_runner_retries_total", "leyden_runner_lease_lost_total"),
                Query(rate("leyden_runner_retries_total", "cause"), "retried: {{cause}}"),
                Query(rate("leyden_runner_lease_lost_total", "when"), "lease lost: {{when}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Scoring",
            "Seconds of reward functions, 95th percentile, by reward.",
            (Query(quantile(0.95, "leyden_reward_score_seconds", "reward"), "{{reward}}"),),
            unit="s",
        ),
        Chart(
            "Intermediate rewards",
            "Steps that a rule applied to, and trajectories whose terms were scaled down.",
            (
                Query(rate("leyden_reward_air_terms_total", "rule"), "{{rule}}"),
                Query(f"sum(rate(leyden_reward_air_capped_total[{RATE}]))", "scaled down"),
            ),
            unit="ops",
        ),
        Chart(
            "Open",
            "Rollouts that reward waits for, and groups that credit waits for.",
            (
                Query("sum(leyden_reward_open_rollouts)", "rollouts"),
                Query("sum(leyden_reward_pending_scores)", "being scored"),
                Query("sum(leyden_credit_open_groups)", "groups"),
            ),
        ),
        Chart(
            "Samples published",
            "By estimator, a second.",
            (Query(rate("leyden_credit_samples_total", "estimator"), "{{estimator}}"),),
            unit="ops",
        ),
    ),
)

LOG = Section(
    "The log",
    (
        Chart(
            "Consumer lag",
            "Messages between the committed low watermark and the end. What is open is held back on purpose.",
            (Query("sum by (topic, group) (leyden_consumer_lag)", "{{group}} {{topic}}"),),
        ),
        Chart(
            "Messages",
            "Taken in, by group and result.",
            (Query(rate("leyden_consumer_messages_total", "group, result"), "{{group}} {{result}}"),),
            unit="ops",
        ),
        Chart(
            "Dead letters",
            "By group and reason.",
            (
                total("leyden_deadletters_total"),
                Query(rate("leyden_deadletters_total", "group, reason"), "{{group}}: {{reason}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Waiting for something that is away",
            "Times processing had to wait for the database, the broker or another service.",
            (
                total("leyden_consumer_unavailable_total"),
                Query(rate("leyden_consumer_unavailable_total", "group"), "{{group}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Outbox",
            "Messages committed to Postgres and not yet published.",
            (Query("sum by (outbox) (leyden_outbox_pending)", "{{outbox}}"),),
        ),
        Chart(
            "Published",
            "Messages acknowledged, and not acknowledged by reason.",
            (
                Query(rate("leyden_published_total", "topic"), "{{topic}}"),
                Query(rate("leyden_publish_failed_total", "topic, reason"), "failed: {{topic}} {{reason}}"),
            ),
            unit="ops",
        ),
        Chart(
            "Memory",
            "Resident, by service.",
            (Query('sum by (job) (process_resident_memory_bytes{product="leyden"})', "{{job}}"),),
            unit="bytes",
            width=12,
        ),
        Chart(
            "CPU",
            "Cores in use, by service.",
            (
                Query(
                    f'sum by (job) (rate(process_cpu_seconds_total{{product="leyden"}}[{RATE}]))', "{{job}}"
                ),
            ),
            width=12,
        ),
    ),
)

SECTIONS = (OVERVIEW, TRAINING, SERVING, EXECUTION, LOG)
