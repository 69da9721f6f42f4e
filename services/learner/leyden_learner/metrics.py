"""Every metric of the learner. All carry the policy, because a dashboard shows several learners."""

from collections.abc import Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram

from leyden_schemas import TrainingSample

STEP = Gauge("leyden_learner_step", "Steps trained since the run began.", ["policy"])
VERSION = Gauge("leyden_learner_version", "Newest registered version.", ["policy"])
BUFFERED = Gauge("leyden_learner_buffered_rollouts", "Usable rollouts waiting for a step.", ["policy"])
BACKLOG = Gauge(
    "leyden_learner_backlog_rollouts",
    "Rollouts waiting for a step, in memory or left on the log.",
    ["policy", "queue"],
)
ROOM = Gauge(
    "leyden_learner_room_rollouts", "Rollouts that may be under way without going stale.", ["policy"]
)
PAUSED = Gauge("leyden_learner_paused", "1 while training is paused by the health guards.", ["policy"])
READ = Counter("leyden_learner_samples_read_total", "Messages read from the samples topic.", ["policy"])
DROPPED = Counter("leyden_learner_samples_dropped_total", "Samples not trained on.", ["policy", "reason"])
SKIPPED = Counter("leyden_learner_steps_skipped_total", "Steps refused as unhealthy.", ["policy", "reason"])
ROLLOUTS = Counter("leyden_learner_rollouts_trained_total", "Rollouts trained on.", ["policy"])
TOKENS = Counter(
    "leyden_learner_tokens_total",
    "Tokens trained on: sampled ones, and all that were read.",
    ["policy", "kind"],
)
QUEUE_TOKENS = Counter(
    "leyden_learner_queue_tokens_total", "Sampled tokens trained on, by queue of tasks.", ["policy", "queue"]
)
SINK_POINTS = Counter(
    "leyden_learner_sink_points_total",
    "Steps handed to a sink: written, failed there, or dropped because it is slow.",
    ["policy", "sink", "result"],
)
RETRIES = Counter(
    "leyden_learner_retries_total", "Failed tries of something that was away.", ["policy", "what"]
)
RETENTION = Counter(
    "leyden_learner_retention_total",
    "Old checkpoints, by outcome: deleted, unfinished (deleted), or kept for served, alias, pinned, newest, "
    "base, recent; and passes postponed.",
    ["policy", "outcome"],
)
STALENESS = Histogram(
    "leyden_learner_staleness_versions",
    "Versions between a rollout's oldest token and the newest, when trained on.",
    ["policy"],
    buckets=(0, 1, 2, 3, 4, 6, 8, 12, 16),
)
PHASE = Histogram(
    "leyden_learner_phase_seconds",
    "Seconds of each phase of a step: collect, train, checkpoint, upload, commit, register.",
    ["policy", "phase"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

_GAUGES = {
    "loss": "Weighted loss.",
    "lr": "Learning rate used.",
    "grad_norm": "Norm of the gradient before clipping.",
    "entropy": "Mean entropy of the sampled tokens' distributions, nats.",
    "kl_sampler": "Mean (log policy - log sampler)^2 / 2 of sampled tokens.",
    "kl_reference": "Mean estimate, by the setting kl, of the KL to the first version; 0 without a KL term.",
    "clip_fraction": "Share of sampled tokens that a clip bound keeps from moving the policy.",
    "clip_low_fraction": "Share held by the lower bound: tokens that became less likely.",
    "clip_high_fraction": "Share held by the upper bound: tokens that became more likely.",
    "ratio_max": "Largest policy / sampler ratio of a sampled token.",
    "importance_weight": "Mean truncated importance weight; 1 when switched off.",
    "reward_mean": "Mean final reward of the step's rollouts.",
    "reward_std": "Standard deviation of the final rewards.",
    "advantage_mean": "Token mean of the advantages.",
    "advantage_std": "Token standard deviation of the advantages.",
    "advantage_max": "Largest absolute advantage.",
    "zero_advantage_share": "Share of sampled tokens whose advantage is 0, which teach nothing.",
    "staleness_mean": "Token mean of versions between sampling and training.",
    "completion_length_mean": "Mean sampled tokens of a completion.",
    "completion_length_max": "Sampled tokens of the longest completion.",
    "truncated_share": "Share of completions that were cut off at their length limit.",
    "rollouts": "Rollouts trained on together.",
    "groups": "Groups they are of.",
    "tokens_per_second": "Tokens, padding included, over the seconds of training on them.",
}
STEP_GAUGES = {
    name: Gauge(f"leyden_learner_{name}", f"Last step: {text}", ["policy"]) for name, text in _GAUGES.items()
}


def observe_step(policy: str, measured: dict[str, float]) -> None:
    """Show a step's measurements, also those of a skipped one."""
    speed = {"tokens_per_second": measured["input_tokens"] / max(measured["seconds"], 1e-9)}
    for name, value in (measured | speed).items():
        if name in STEP_GAUGES:
            STEP_GAUGES[name].labels(policy).set(value)


def observe_trained(
    policy: str, measured: Mapping[str, float], samples: Sequence[TrainingSample], version: int
) -> None:
    """Count a step that was trained while ``version`` was the newest."""
    ROLLOUTS.labels(policy).inc(len(samples))
    TOKENS.labels(policy, "sampled").inc(measured["sampled_tokens"])
    TOKENS.labels(policy, "input").inc(measured["input_tokens"])
    for sample in samples:
        STALENESS.labels(policy).observe(version - sample.oldest_version)
        QUEUE_TOKENS.labels(policy, sample.queue).inc(sample.sampled_tokens)
