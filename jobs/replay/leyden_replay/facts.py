"""What a comparison needs of a trajectory or a sample, read without building the rest of it."""

import sys
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter

from leyden_schemas import TrajectoryStatus


class _Term(BaseModel):
    name: str = ""
    value: float
    weight: float = 1.0


class _Step(BaseModel):
    terms: list[_Term] = []


class _Task(BaseModel):
    task_id: str | None = None


class _Trajectory(BaseModel):
    model_config = ConfigDict(extra="ignore")

    rollout_id: UUID
    group_id: UUID
    index: int = 0
    revision: int = 0
    task: _Task
    status: TrajectoryStatus = TrajectoryStatus.SCORED
    excluded_reason: str | None = None
    error: str | None = None
    final: list[_Term] = []
    steps: list[_Step] = []
    scored_by: str = ""
    output: Any = None


class _Span(BaseModel):
    logprobs: list[float]
    advantage: float


class _Row(BaseModel):
    spans: list[_Span]


class _Sample(BaseModel):
    model_config = ConfigDict(extra="ignore")

    rollout_id: UUID
    estimator: str
    rows: list[_Row]


_SHOWN = 80
_TRAJECTORY, _SAMPLE = TypeAdapter(_Trajectory), TypeAdapter(_Sample)


@dataclass(frozen=True, slots=True)
class Scored:
    """What a rollout was worth. ``final`` and ``air`` are None when it was excluded, for ``reason``."""

    group_id: UUID
    task_id: str
    index: int
    revision: int
    final: float | None
    air: float | None
    reason: str
    error: str
    by: str
    output: str = ""


@dataclass(frozen=True, slots=True)
class Credited:
    """What a rollout is to be trained with: ``advantage`` is the mean over its sampled tokens."""

    estimator: str
    advantage: float
    digest: bytes


def scored(value: bytes) -> tuple[UUID, Scored]:
    """A trajectory by its rollout. Raises ``ValueError`` for bytes that are none."""
    told = _TRAJECTORY.validate_json(value)
    counts = told.status is TrajectoryStatus.SCORED
    return told.rollout_id, Scored(
        told.group_id,
        told.task.task_id or "",
        told.index,
        told.revision,
        _total(told.final) if counts else None,
        sum(_total(step.terms) for step in told.steps) if counts else None,
        "" if counts else told.excluded_reason or "unknown",
        (told.error or "")[:200] if not counts else "",
        sys.intern(told.scored_by),
        "" if told.output is None else str(told.output)[:_SHOWN],
    )


def credited(value: bytes) -> tuple[UUID, Credited]:
    """A sample by its rollout. Raises ``ValueError`` for bytes that are none."""
    told = _SAMPLE.validate_json(value)
    spans = [span for row in told.rows for span in row.spans]
    tokens = sum(len(span.logprobs) for span in spans)
    total = sum(span.advantage * len(span.logprobs) for span in spans)
    return told.rollout_id, Credited(told.estimator, total / tokens if tokens else 0.0, digest(value))


def digest(value: bytes) -> bytes:
    """Equal for equal bytes."""
    return blake2b(value, digest_size=16).digest()


def _total(terms: list[Any]) -> float:
    return float(sum(term.value * term.weight for term in terms))
