"""Every metric of the credit service."""

from prometheus_client import Counter, Gauge, Histogram

TRAJECTORIES = Counter("leyden_credit_trajectories_total", "Trajectories taken in.", ["status"])
TRAJECTORIES_DROPPED = Counter(
    "leyden_credit_trajectories_dropped_total", "Trajectories that joined no group.", ["reason"]
)
GROUPS = Counter("leyden_credit_groups_total", "Groups closed.", ["closed"])
GROUPS_DROPPED = Counter("leyden_credit_groups_dropped_total", "Groups that gave no sample.", ["reason"])
GROUPS_MIXED = Counter(
    "leyden_credit_groups_mixed_total", "Groups that were sampled by more than one policy version."
)
ROLLOUTS_DROPPED = Counter(
    "leyden_credit_rollouts_dropped_total", "Rollouts of a group that gave no sample.", ["reason"]
)
STEPS_DROPPED = Counter("leyden_credit_steps_dropped_total", "Steps left out of a sample.", ["reason"])
SAMPLES = Counter("leyden_credit_samples_total", "Training samples published.", ["estimator"])
ROWS = Histogram(
    "leyden_credit_rows", "Token rows per sample.", buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
)
SAMPLED_TOKENS = Counter("leyden_credit_sampled_tokens_total", "Published tokens that carry loss.")
OPEN = Gauge("leyden_credit_open_groups", "Groups that wait for rollouts.")
