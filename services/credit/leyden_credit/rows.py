"""Merging a rollout's steps into the fewest token rows, exactly as they were sampled.

Steps lie on a prefix tree. A step whose prompt begins with everything a row holds continues that row, so a
conversation of many turns becomes one row; sub-agents that take turns each continue their own. Every
sampled token carries loss once. Nothing is ever tokenised again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from leyden_schemas import Step, TokenRow, TokenSpan


class StepDrop(StrEnum):
    """Why one step is left out of training; the others of its rollout stay."""

    UNTRAINABLE = "untrainable"
    NO_PROMPT_IDS = "no_prompt_ids"
    NO_TOKEN_IDS = "no_token_ids"
    LOGPROBS_MISMATCH = "logprobs_mismatch"
    LOGPROBS_NOT_FINITE = "logprobs_not_finite"
    UNKNOWN_VERSION = "unknown_version"
    OTHER_POLICY = "other_policy"


class Merged(NamedTuple):
    """The rows of a rollout, and the steps that are in none of them."""

    rows: list[TokenRow]
    dropped: list[StepDrop]


@dataclass(slots=True)
class _Row:
    token_ids: list[int]
    spans: list[TokenSpan] = field(default_factory=list)

    def continues_in(self, prompt: list[int]) -> bool:
        size = len(self.token_ids)
        return size <= len(prompt) and prompt[:size] == self.token_ids

    def extend(self, step: Step, version: int, advantage: float) -> None:
        self.token_ids += step.prompt_token_ids[len(self.token_ids) :]
        self.token_ids += step.token_ids
        self.spans.append(
            TokenSpan(
                start=len(step.prompt_token_ids),
                logprobs=step.logprobs,
                advantage=advantage,
                version=version,
                completion_id=step.completion_id,
            )
        )


def merge(steps: Sequence[Step], advantages: Sequence[float], *, policy: str) -> Merged:
    """Rows of the steps that ``policy`` sampled, each span with its step's advantage."""
    rows: list[_Row] = []
    dropped = []
    for step, advantage in zip(steps, advantages, strict=True):
        if (reason := unusable(step, policy=policy)) is not None:
            dropped.append(reason)
            continue
        assert step.version is not None
        row = max((row for row in rows if row.continues_in(step.prompt_token_ids)), key=_length, default=None)
        if row is None:
            rows.append(row := _Row([]))
        row.extend(step, step.version, advantage)
    return Merged([TokenRow(token_ids=row.token_ids, spans=row.spans) for row in rows], dropped)


def unusable(step: Step, *, policy: str) -> StepDrop | None:
    """Why the step cannot be trained on, or None when it can."""
    if step.untrainable is not None:
        return StepDrop.UNTRAINABLE
    if step.policy.partition("@")[0].partition("#")[0] != policy:
        return StepDrop.OTHER_POLICY
    if step.version is None or step.version < 0:
        return StepDrop.UNKNOWN_VERSION
    if not step.prompt_token_ids:
        return StepDrop.NO_PROMPT_IDS
    if not step.token_ids:
        return StepDrop.NO_TOKEN_IDS
    if len(step.logprobs) != len(step.token_ids):
        return StepDrop.LOGPROBS_MISMATCH
    if not all(map(math.isfinite, step.logprobs)):
        return StepDrop.LOGPROBS_NOT_FINITE
    return None


def _length(row: _Row) -> int:
    return len(row.token_ids)
