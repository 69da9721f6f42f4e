"""What a replay changed: rewards and advantages before and after, rollout by rollout, and who moved most."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from leyden_replay.facts import Credited, Scored
from leyden_replay.statistics import (
    Distribution,
    GroupOrder,
    distribution,
    group_order,
    mean_change,
    rank_correlation,
    sign,
)

MOVERS = 10


class Told(NamedTuple):
    """What one side says: trajectories and samples by rollout."""

    scored: dict[UUID, Scored]
    credited: dict[UUID, Credited]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Measure(_Part):
    """One number a rollout, compared where both sides have it."""

    name: str
    compared: int
    before: Distribution | None
    after: Distribution | None
    equal: int
    up: int
    down: int
    mean_change: float
    rank_correlation: float | None = Field(description="Spearman's rho; None when one side is all equal.")


class Mover(_Part):
    """A rollout whose final reward changed much."""

    rollout_id: UUID
    group_id: UUID
    task_id: str
    index: int
    output: str = Field(description="The beginning of what the agent answered.")
    before: float
    after: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


class Samples(_Part):
    """Training samples of the compared rollouts, byte by byte."""

    identical: int = 0
    different: int = 0
    only_before: int = 0
    only_after: int = 0


class Comparison(_Part):
    """Before is what the live services published, after is the replay."""

    rollouts: int = Field(description="Rollouts that the replay scored or excluded.")
    without_before: int = Field(
        description="Of these, how many have no live trajectory in the log (any more)."
    )
    statuses: dict[str, int] = Field(description='How many went from what to what: "scored -> excluded".')
    measures: list[Measure]
    order: GroupOrder
    movers: list[Mover]
    samples: Samples
    pairs: list[tuple[float, float]] = Field(exclude=True, description="Final rewards, for the picture.")


def compare(before: Told, after: Told) -> Comparison:
    """Compare rollouts by their ids."""
    common = {rollout_id: (before.scored[rollout_id], now) for rollout_id, now in after.scored.items()
              if rollout_id in before.scored}  # fmt: skip
    advantages = [(before.credited[r].advantage, now.advantage) for r, now in after.credited.items()
                  if r in before.credited]  # fmt: skip
    finals = _pairs(common, lambda scored: scored.final)
    return Comparison(
        rollouts=len(after.scored),
        without_before=len(after.scored) - len(common),
        statuses=dict(Counter(f"{_status(was)} -> {_status(now)}" for was, now in common.values())),
        measures=[
            measure("final reward", finals),
            measure("intermediate reward", _pairs(common, lambda scored: scored.air)),
            measure("advantage", advantages),
        ],
        order=group_order(_by_group(common)),
        movers=movers(common),
        samples=samples(before.credited, after.credited, set(common)),
        pairs=finals,
    )


def measure(name: str, pairs: list[tuple[float, float]]) -> Measure:
    """The two sides of ``pairs``."""
    before, after = [was for was, _ in pairs], [now for _, now in pairs]
    signs = Counter(sign(now, was) for was, now in pairs)
    return Measure(
        name=name,
        compared=len(pairs),
        before=distribution(before),
        after=distribution(after),
        equal=signs[0],
        up=signs[1],
        down=signs[-1],
        mean_change=mean_change(pairs),
        rank_correlation=rank_correlation(before, after),
    )


def movers(common: Mapping[UUID, tuple[Scored, Scored]], most: int = MOVERS) -> list[Mover]:
    """The rollouts whose final reward changed, the largest change first; ties go by id, so repeats agree."""
    moved = [
        Mover(
            rollout_id=rollout_id,
            group_id=now.group_id,
            task_id=now.task_id,
            index=now.index,
            output=now.output,
            before=was.final,
            after=now.final,
        )
        for rollout_id, (was, now) in common.items()
        if was.final is not None and now.final is not None and sign(now.final, was.final)
    ]
    return sorted(moved, key=lambda mover: (-abs(mover.change), str(mover.rollout_id)))[:most]


def samples(before: Mapping[UUID, Credited], after: Mapping[UUID, Credited], common: set[UUID]) -> Samples:
    """Counts by whether the bytes are the same."""
    fates: Counter[str] = Counter()
    for rollout_id in common & (before.keys() | after.keys()):
        was, now = before.get(rollout_id), after.get(rollout_id)
        if was is None or now is None:
            fates["only_before" if now is None else "only_after"] += 1
        else:
            fates["identical" if was.digest == now.digest else "different"] += 1
    return Samples(**fates)


def _pairs(
    common: Mapping[UUID, tuple[Scored, Scored]], number: Callable[[Scored], float | None]
) -> list[tuple[float, float]]:
    both = ((number(was), number(now)) for was, now in common.values())
    return [(was, now) for was, now in both if was is not None and now is not None]


def _by_group(common: Mapping[UUID, tuple[Scored, Scored]]) -> list[list[tuple[float, float]]]:
    groups: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    for was, now in common.values():
        if was.final is not None and now.final is not None:
            groups[now.group_id].append((was.final, now.final))
    return list(groups.values())


def _status(scored: Scored) -> str:
    return "scored" if scored.final is not None else f"excluded ({scored.reason})"
