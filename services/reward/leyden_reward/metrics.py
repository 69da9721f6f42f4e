"""Every metric of the reward service."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("leyden_reward_events_total", "Events taken in.", ["type"])
events = cache(EVENTS.labels)
EVENTS_DROPPED = Counter("leyden_reward_events_dropped_total", "Events that changed nothing.", ["reason"])
BASES_UNKNOWN = Counter(
    "leyden_reward_bases_unknown_total",
    "Completions kept without their prompt, because the completion it leans on is not known.",
)
REVISIONS = Counter(
    "leyden_reward_revisions_total", "Trajectories published again because feedback came late.", ["status"]
)
PAST_UNKNOWN = Counter(
    "leyden_reward_past_unknown_total",
    "Starts at which the log before could not be read in time: sessions may have been published twice.",
)
REVISIT_SECONDS = Histogram(
    "leyden_reward_revisit_seconds",
    "Reading the log again for late feedback.",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 120, 300),
)
TRAJECTORIES = Counter("leyden_reward_trajectories_total", "Trajectories published.", ["split", "status"])
EXCLUDED = Counter("leyden_reward_excluded_total", "Trajectories published without a score.", ["reason"])
FINAL = Histogram(
    "leyden_reward_final",
    "Final rewards of scored trajectories.",
    ["split"],
    buckets=(-1, -0.5, 0, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 2),
)
SCORE_SECONDS = Histogram("leyden_reward_score_seconds", "Duration of final reward functions.", ["reward"])
AIR_TERMS = Counter("leyden_reward_air_terms_total", "Steps that an intermediate rule applied to.", ["rule"])
AIR_CAPPED = Counter(
    "leyden_reward_air_capped_total", "Trajectories whose intermediate terms were scaled down."
)
AIR_RULES_FAILED = Counter(
    "leyden_reward_air_rules_failed_total",
    "Trajectories that a rule of the user's could not measure.",
    ["rule", "reason"],
)
OPEN = Gauge("leyden_reward_open_rollouts", "Rollouts started and not yet closed.")
PENDING = Gauge("leyden_reward_pending_scores", "Closed rollouts not yet published.")
PUBLISH_RETRIES = Counter(
    "leyden_reward_publish_retries_total", "Trajectories that had to be published again."
)
WORKERS_LOST = Counter(
    "leyden_reward_workers_lost_total",
    "Worker processes that user code ended or that were killed.",
    ["reason"],
)
JUDGE_CALLS = Counter("leyden_reward_judge_calls_total", "Calls of the judge, repeated ones included.")
JUDGE_CACHED = Counter("leyden_reward_judge_cached_total", "Verdicts that were known already.")
JUDGE_FAILED = Counter("leyden_reward_judge_failed_total", "Questions without a verdict.", ["reason"])
JUDGE_TOKENS = Counter(
    "leyden_reward_judge_tokens_total", "Tokens of the judge's calls, as the server counts."
)
JUDGE_SECONDS = Histogram("leyden_reward_judge_seconds", "Duration of calls of the judge.")
SANDBOX_OPEN = Counter(
    "leyden_reward_sandbox_open_total", "Sandboxes to which the kernel granted no namespace of their own."
)
RANKINGS = Counter(
    "leyden_reward_rankings_total",
    "Rollouts ranked in their group, or what kept them out of it.",
    ["outcome"],
)
