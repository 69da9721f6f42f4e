"""The user's rules: measured in the processes that run their reward functions, bounded like all others.

A rule that fails contributes nothing to the trajectory, is counted, and breaks nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from leyden_reward import metrics
from leyden_reward.air.own_worker import OwnRule
from leyden_reward.rewards.verdict import Refused
from leyden_schemas import Trajectory

log = structlog.get_logger(__name__)


Measured = tuple[OwnRule, Sequence[float]]


class RuleWorkers(Protocol):
    """Where the user's rules run."""

    @property
    def rules(self) -> Mapping[str, OwnRule]:
        """Those that were imported, by name."""

    async def measure(self, name: str, trajectory: Trajectory) -> list[float] | Refused:
        """What the rule sees in every step; its failures are refusals, never exceptions."""


class OwnRules:
    """All rules of the catalogue, but those that ``weights`` turns off."""

    def __init__(self, workers: RuleWorkers, *, weights: Mapping[str, float] | None = None) -> None:
        self._workers, self._weights = workers, weights or {}

    async def measure(self, trajectory: Trajectory) -> list[Measured]:
        """What each rule that did not fail sees, in the order of their names."""
        rules = [
            rule
            for name, rule in sorted(self._workers.rules.items())
            if self._weights.get(name, rule.weight) and trajectory.steps
        ]
        found = await asyncio.gather(*(self._workers.measure(rule.name, trajectory) for rule in rules))
        for rule, values in zip(rules, found, strict=True):
            if isinstance(values, Refused):
                _count(rule, values, trajectory)
        pairs = zip(rules, found, strict=True)
        return [(rule, values) for rule, values in pairs if not isinstance(values, Refused)]


def _count(rule: OwnRule, why: Refused, trajectory: Trajectory) -> None:
    metrics.AIR_RULES_FAILED.labels(rule.name, why.reason).inc()
    log.warning(
        "rule_failed",
        rule=rule.name,
        rollout_id=str(trajectory.rollout_id),
        reason=str(why.reason),
        error=why.text,
    )
