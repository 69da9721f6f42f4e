"""What a replay did and found: the content of ``replay.json``, and of everything shown of it."""

from collections import Counter
from datetime import datetime

from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, Field

from leyden_replay.comparison import Comparison


class Edges(BaseModel):
    """The stretch that was gone over."""

    model_config = ConfigDict(frozen=True)

    since: str = Field(description="As it was asked for.")
    until: str
    reads_from: datetime | None = Field(
        description="Where the lead-in began; None at the beginning of the log."
    )
    counts_from: datetime | None = Field(description="From when on what ended belongs to it; None for all.")
    last: datetime | None = Field(default=None, description="The time of its last event.")
    lead_in_cut: bool = Field(description="Whether retention has taken some of the lead-in.")


class Counts(BaseModel):
    """How many of everything."""

    events: int = Field(default=0, description="Read, the lead-in included.")
    passed_over: int = Field(
        default=0, description="Events of tenants, runs or policies that were not asked for."
    )
    malformed: int = Field(
        default=0, description="Events that are none; the live service dead-lettered them."
    )
    failed: int = Field(default=0, description="Events that could not be handled; the log says why.")
    rollouts: int = Field(default=0, description="Rollouts that ended in the stretch.")
    excluded: dict[str, int] = Field(default_factory=dict, description="Of these, not scored, by reason.")
    lead_in: int = Field(
        default=0, description="Rollouts that ended before it, read because of their groups."
    )
    began_before: int = Field(default=0, description="Rollouts cut off by the beginning of what was read.")
    unfinished: int = Field(default=0, description="Rollouts not ended when the stretch did.")
    groups_unfinished: int = Field(default=0, description="Groups that still waited for rollouts then.")
    samples: int = 0


class Summary(BaseModel):
    """Everything there is to say about a replay."""

    name: str
    dry_run: bool
    definitions: dict[str, str]
    digest: str
    scored_by: dict[str, int] = Field(
        description="Scored rollouts by function; several when each task has its own."
    )
    estimators: dict[str, int] = Field(description="Samples by estimator.")
    edges: Edges
    counts: Counts
    dropped: dict[str, int] = Field(description="What the services left out, by their metrics.")
    written: dict[str, int] = Field(default_factory=dict)
    examples: dict[str, str] = Field(description="One error text a reason of exclusion.")
    comparison: Comparison | None = None
    timings: dict[str, float] = Field(default_factory=dict, description="Seconds a stage.")


Metrics = dict[str, float]

_LEFT_OUT = ("_dropped_total", "_mixed_total", "_capped_total", "_unknown_total", "_groups_total")


def metrics_now() -> Metrics:
    """What the services' metrics say has been left out so far, and how much is open."""
    found: Metrics = {}
    for family in REGISTRY.collect():
        if not family.name.startswith(("leyden_reward_", "leyden_credit_")):
            continue
        for sample in family.samples:
            if sample.name.endswith((*_LEFT_OUT, "_open_groups")):
                labels = ", ".join(sample.labels.values())
                found[f"{sample.name.removesuffix('_total')}{f' ({labels})' if labels else ''}"] = (
                    sample.value
                )
    return found


def grown(before: Metrics, after: Metrics) -> dict[str, int]:
    """What became more, under names without the product's."""
    growth = Counter({name: int(value - before.get(name, 0.0)) for name, value in after.items()})
    return {name.removeprefix("leyden_"): count for name, count in sorted(growth.items()) if count > 0}
