"""The result of a demo as one value: what ``summary.json`` holds and the report shows."""

import platform
from datetime import datetime
from importlib.metadata import version
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from leyden_local.demo.campaign import Evaluation
from leyden_local.demo.options import DemoOptions
from leyden_local.demo.tally import Tally
from leyden_schemas import ModelPublished

PACKAGES = ("leyden", "torch", "transformers", "faststream", "aiokafka", "openai", "sqlalchemy")
CURVE = ("reward_mean", "loss", "kl_sampler", "entropy", "clip_fraction", "grad_norm", "staleness_mean")


class EvaluationResult(BaseModel):
    """Held-out success before or after, greedy or sampled, with a 95 % Wilson interval."""

    model_config = ConfigDict(frozen=True)

    when: str
    mode: str
    version: int
    successes: int
    trials: int
    excluded: int
    success: float
    low: float
    high: float

    @classmethod
    def of(cls, when: str, evaluation: Evaluation) -> "EvaluationResult":
        """The result of one evaluation."""
        rate = evaluation.rate
        low, high = rate.interval()
        return cls(
            when=when,
            mode=evaluation.mode,
            version=evaluation.version,
            successes=rate.successes,
            trials=rate.trials,
            excluded=evaluation.excluded,
            success=rate.value,
            low=low,
            high=high,
        )


class CurvePoint(BaseModel):
    """One learner step: the version it made, and the mean reward of all rollouts that version sampled.

    ``metrics`` are the learner's own; their ``reward_mean`` is of the rollouts trained on, without the groups
    that were dropped because all their rewards were equal.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    version: int
    seconds: float
    reward: float | None
    rollouts: int
    metrics: dict[str, float]


class Summary(BaseModel):
    """Everything a demo run found out."""

    model_config = ConfigDict(frozen=True)

    policy: str
    seed: int
    options: dict[str, Any]
    packages: dict[str, str]
    python: str
    evaluations: list[EvaluationResult]
    rollouts: int
    samples: int
    completions: int
    tokens: int
    steps: int
    final_version: int
    curve: list[CurvePoint]
    timings: dict[str, float]
    peak_memory_mb: float

    def success(self, when: str, mode: str) -> EvaluationResult:
        """The evaluation of that name."""
        return next(e for e in self.evaluations if (e.when, e.mode) == (when, mode))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def improved(self) -> bool:
        """Whether held-out success rose, greedy and sampled, beyond the intervals' overlap."""
        return all(
            self.success("after", mode).low > self.success("before", mode).high
            for mode in ("greedy", "sampled")
        )


def summarise(
    options: DemoOptions,
    evaluations: list[EvaluationResult],
    tally: Tally,
    timings: dict[str, float],
    peak_memory_mb: float,
) -> Summary:
    """The summary of a finished run."""
    published = [tally.steps[step] for step in sorted(tally.steps)]
    start = published[0].occurred_at if published else None
    curve = [_point(model, tally.rewards_by_version.get(model.version, []), start) for model in published]
    return Summary(
        policy=tally.policy,
        seed=options.seed,
        options=options.model_dump(mode="json", exclude={"examples", "reports"}),
        packages={name: version(name) for name in PACKAGES},
        python=platform.python_version(),
        evaluations=evaluations,
        rollouts=len(tally.finished),
        samples=len(tally.accepted),
        completions=tally.completions,
        tokens=tally.tokens,
        steps=tally.step,
        final_version=published[-1].version if published else 0,
        curve=curve,
        timings=timings,
        peak_memory_mb=peak_memory_mb,
    )


def _point(model: ModelPublished, rewards: list[float], start: datetime | None) -> CurvePoint:
    return CurvePoint(
        step=model.step or 0,
        version=model.version,
        seconds=(model.occurred_at - start).total_seconds() if start else 0.0,
        reward=fmean(rewards) if rewards else None,
        rollouts=len(rewards),
        metrics={k: float(v) for k in CURVE if isinstance(v := model.metrics.get(k), int | float)},
    )
