"""Merging a rollout's steps into the fewest token rows, exactly as they were sampled.

Steps lie on a prefix tree. A step whose prompt begins with everything a row holds continues that row, so a
conversation of many turns becomes one row; sub-agents that take turns each continue their own. Every
sampled token carries loss once. Nothing is ever tokenised again.
"""

import math
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from leyden_credit.token_tree import Node, Place, root, walk
from leyden_platform.transcript import Transcript
from leyden_schemas import Step, TokenRow, TokenSpan
from leyden_schemas.whole import Parts, parts_of


class StepDrop(StrEnum):
    """Why one step is left out of training; the others of its rollout stay."""

    UNTRAINABLE = "untrainable"
    NO_PROMPT_IDS = "no_prompt_ids"
    NO_TOKEN_IDS = "no_token_ids"
    LOGPROBS_MISMATCH = "logprobs_mismatch"
    LOGPROBS_NOT_FINITE = "logprobs_not_finite"
    UNKNOWN_VERSION = "unknown_version"
    OTHER_POLICY = "other_policy"
    OTHER_AGENT = "other_agent"


class Merged(NamedTuple):
    """The rows of a rollout, and the steps that are in none of them; ``too_large`` when there are no rows
    because they have too many tokens.
    """

    rows: list[TokenRow]
    dropped: list[StepDrop]
    too_large: bool = False


class _Sampled(NamedTuple):
    """A step that is trained on: what it sampled lies between two places of the tree."""

    order: int
    asked: Place
    end: Place
    span: TokenSpan


@dataclass(slots=True)
class _Row:
    """Steps on one path from the root, each after the end of the one before it."""

    steps: list[_Sampled]

    @property
    def end(self) -> Place:
        return self.steps[-1].end

    @property
    def first(self) -> int:
        return min(step.order for step in self.steps)

    def tokens(self) -> TokenRow:
        """Not validated again: by construction its spans fit."""
        return TokenRow.model_construct(token_ids=self.end.ids(), spans=[step.span for step in self.steps])


def merge(
    steps: Sequence[Step],
    advantages: Sequence[float],
    *,
    policy: str,
    agents: Collection[str] = (),
    most_tokens: int | None = None,
) -> Merged:
    """Rows of the steps that ``policy`` sampled, each span with its step's advantage.

    With ``agents``, only of the steps of these agents. An agent that rewrites its history in every turn has a
    row for each, and all of them the whole prompt: beyond ``most_tokens`` in all, none is made.
    """
    steps, parts = _with_parts(steps)
    places = _Places(parts)
    sampled, dropped = [], []
    for index, (step, advantage) in enumerate(zip(steps, advantages, strict=True)):
        reason = unusable(step, parts, index, policy=policy, agents=agents)
        if reason is None:
            sampled.append(places.sampled(index, _span(step, parts, index, advantage)))
        else:
            dropped.append(reason)
    rows = sorted(_rows(sampled), key=lambda row: row.first)
    if most_tokens is not None and sum(row.end.depth for row in rows) > most_tokens:
        return Merged([], dropped, too_large=True)
    return Merged([row.tokens() for row in rows], dropped)


def _with_parts(steps: Sequence[Step]) -> tuple[Sequence[Step], Parts]:
    if (parts := parts_of(steps)) is not None:
        return steps, parts
    transcript = Transcript(steps)
    packed = transcript.steps()
    return packed, transcript.whole().parts


def unusable(
    step: Step, parts: Parts, index: int, *, policy: str, agents: Collection[str] = ()
) -> StepDrop | None:
    """Why the step, of which ``parts`` has the ids, cannot be trained on; None when it can."""
    if step.untrainable is not None:
        return StepDrop.UNTRAINABLE
    if step.policy.partition("@")[0].partition("#")[0] != policy:
        return StepDrop.OTHER_POLICY
    if agents and step.agent not in agents:
        return StepDrop.OTHER_AGENT
    if step.version is None or step.version < 0:
        return StepDrop.UNKNOWN_VERSION
    return _incomplete(parts, index)


def _incomplete(parts: Parts, index: int) -> StepDrop | None:
    sampled, logprobs = parts.sampled(index), parts.logprobs(index)
    if not _prompt_size(parts, index):
        return StepDrop.NO_PROMPT_IDS
    if not sampled:
        return StepDrop.NO_TOKEN_IDS
    if len(logprobs) != len(sampled):
        return StepDrop.LOGPROBS_MISMATCH
    if not all(map(math.isfinite, logprobs)):
        return StepDrop.LOGPROBS_NOT_FINITE
    return None


def _prompt_size(parts: Parts, index: int) -> int:
    link = parts.link(index)
    return (link.tokens if link else 0) + len(parts.prompt(index))


def _span(step: Step, parts: Parts, index: int, advantage: float) -> TokenSpan:
    """Not validated again: the step is usable."""
    assert step.version is not None
    return TokenSpan.model_construct(
        start=_prompt_size(parts, index),
        logprobs=parts.logprobs(index),
        advantage=advantage,
        version=step.version,
        completion_id=step.completion_id,
        truncated=step.finish_reason == "length",
    )


class _Places:
    """Where each step's prompt and answer end in the tree; a step is put into it from where its base ends."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._root = parts, root()
        self._ends: dict[int, Place] = {}

    def sampled(self, index: int, span: TokenSpan) -> _Sampled:
        end = self._end(index)
        return _Sampled(index, Place(end.node, span.start), end, span)

    def _end(self, index: int) -> Place:
        """Bases come first: a dropped step may be one."""
        missing = [index]
        while (link := self._parts.link(missing[-1])) and link.base not in self._ends:
            missing.append(link.base)
        for at in reversed(missing):
            link = self._parts.link(at)
            start = Place(self._ends[link.base].node, link.tokens) if link else Place(self._root, 0)
            asked = walk(start, array("I", self._parts.prompt(at)))
            self._ends[at] = walk(asked, array("I", self._parts.sampled(at)))
        return self._ends[index]


def _rows(steps: Sequence[_Sampled]) -> list[_Row]:
    """The fewest: by the length of their prompts, each step continues the longest row that it can.

    That is optimal, because whatever could continue that row later could also continue a shorter one instead.
    """
    rows: list[_Row] = []
    ends: dict[Node, list[_Row]] = {}
    for step in sorted(steps, key=lambda step: (step.asked.depth, step.order)):
        row = _continued(step.asked, ends)
        if row is None:
            rows.append(row := _Row([]))
        row.steps.append(step)
        ends.setdefault(step.end.settled().node, []).append(row)
    return rows


def _continued(asked: Place, ends: dict[Node, list[_Row]]) -> _Row | None:
    """Take the row that ends last on the way from the root; the earliest of equals."""
    node: Node | None = asked.settled().node
    while node is not None:
        fitting = [row for row in ends.get(node, ()) if row.end.depth <= asked.depth]
        if fitting:
            row = max(fitting, key=lambda row: row.end.depth)
            ends[node].remove(row)
            return row
        node = node.parent
    return None
