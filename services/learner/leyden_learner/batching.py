"""Samples that wait to be trained on, when they make a step, and whose turn it is.

What fills a step is rollouts, whole groups, or sampled tokens. Queues take turns: the next to be served is
the one that has had least, by its weight, of what fills a step (start-time fair queueing, Goyal et al. 1996).
A queue that was idle begins level with the others, so it neither waits for its past nor is paid for it.
Pure: positions, times and versions come in as values.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self
from uuid import UUID

from leyden_schemas import TrainingSample

_REMEMBERED_GROUPS = 10_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A usable sample and where it lies in the samples topic."""

    sample: TrainingSample
    partition: int
    offset: int
    arrived_s: float

    @property
    def where(self) -> str:
        """Its place in the topic."""
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class BatchRule:
    """When waiting samples make a step. A limit of 0 is none; at least one is set.

    With ``groups`` what is taken is whole groups, else single rollouts. ``share`` is the most rollouts that a
    queue may have waiting: where it is reached no more can come, so a step is not waited for.
    """

    min_rollouts: int
    timeout_s: float
    rollouts: int = 0
    groups: int = 0
    tokens: int = 0
    share: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)

    def weight(self, queue: str) -> float:
        """Its share of the steps beside the others'."""
        return self.weights.get(queue, 1.0)

    def cost(self, unit: Sequence[Waiting]) -> int:
        """How much of a step it takes, in what fills steps."""
        return _tokens(unit) if self.tokens else 1

    def is_full(self, rollouts: int, groups: int, tokens: int) -> bool:
        """Whether one of the limits is reached."""
        reached = ((rollouts, self.rollouts), (groups, self.groups), (tokens, self.tokens))
        return any(0 < limit <= amount for amount, limit in reached)


@dataclass(frozen=True, slots=True)
class Turns:
    """What every queue has had by its weight, who of them was waiting for more, and how far all have come.

    ``settled`` are the rollouts that groups which still wait do not wait for. Kept with a step: a resumed
    learner has to serve next whom it would have served.
    """

    clock: float = 0.0
    served: Mapping[str, float] = field(default_factory=dict)
    contending: frozenset[str] = frozenset()
    settled: Mapping[UUID, frozenset[UUID]] = field(default_factory=dict)

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Self:
        """As ``as_json`` gave them; nobody's, of a step whose were not kept."""
        if not kept:
            return cls()
        settled = {UUID(group): frozenset(map(UUID, members)) for group, members in kept["settled"].items()}
        return cls(kept["clock"], kept["served"], frozenset(kept["contending"]), settled)

    def as_json(self) -> dict[str, Any]:
        """To be kept; numbers come back as they were."""
        return {
            "clock": self.clock,
            "served": dict(sorted(self.served.items())),
            "contending": sorted(self.contending),
            "settled": {str(group): sorted(map(str, self.settled[group])) for group in sorted(self.settled)},
        }


@dataclass(slots=True)
class _Plan:
    """A step in the making: its rollouts, and what every queue has had with it."""

    clock: float
    members: list[Waiting] = field(default_factory=list)
    served: dict[str, float] = field(default_factory=dict)
    units: int = 0
    tokens: int = 0
    full: bool = False


class SampleBuffer:
    """Waiting samples in order of arrival, at most one of each rollout."""

    def __init__(self, rule: BatchRule, turns: Turns | None = None) -> None:
        self._rule, self._turns = rule, turns or Turns()
        self._waiting: dict[UUID, Waiting] = {}
        self._counts: Counter[str] = Counter()
        self._settled = {group: set(members) for group, members in self._turns.settled.items()}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, rollout_id: UUID) -> bool:
        return rollout_id in self._waiting

    def count(self, queue: str) -> int:
        """Rollouts of a queue that wait."""
        return self._counts[queue]

    @property
    def queues(self) -> Mapping[str, int]:
        """Every queue that was ever seen, and how many of its rollouts wait."""
        return self._counts

    @property
    def turns(self) -> Turns:
        """As of the step that was taken last, and of what waits now."""
        waiting = {waiting.sample.group_id for waiting in self._waiting.values()}
        settled = {group: frozenset(self._settled[group]) for group in waiting & self._settled.keys()}
        return replace(self._turns, settled=settled)

    def add(self, waiting: Waiting) -> bool:
        """Keep a sample; False when its rollout already waits, in which case the first one stays."""
        if self._waiting.setdefault(waiting.sample.rollout_id, waiting) is not waiting:
            return False
        self._counts[waiting.sample.queue] += 1
        return True

    def settle(self, sample: TrainingSample) -> None:
        """Note that its group does not wait for this rollout: it is refused, or trained on."""
        if not self._rule.groups:
            return
        self._settled.setdefault(sample.group_id, set()).add(sample.rollout_id)
        if len(self._settled) > _REMEMBERED_GROUPS:
            del self._settled[next(iter(self._settled))]

    def step(self, now_s: float) -> list[Waiting]:
        """Remove and return what a step may train on now; empty while it is too little."""
        lines = self._lines(now_s)
        plan = self._plan(lines)
        if not plan.members or not (plan.full or self._is_time(plan, now_s)):
            return []
        self._remove(plan.members)
        for waiting in plan.members:
            self.settle(waiting.sample)
        contending = frozenset(queue for queue, line in lines.items() if line)
        self._turns = Turns(plan.clock, {**self._turns.served, **plan.served}, contending)
        return plan.members

    def evict(self, refused: Callable[[TrainingSample], bool]) -> list[Waiting]:
        """Remove and return the samples that ``refused`` holds for."""
        gone = [waiting for waiting in self._waiting.values() if refused(waiting.sample)]
        self._remove(gone)
        for waiting in gone:
            self.settle(waiting.sample)
        return gone

    def low_watermark(self, next_offsets: Mapping[int, int]) -> dict[int, int]:
        """Where each partition must be read from again: its first waiting sample, else its next offset.

        One without a next offset must be read from its beginning, whatever waits of it, and stays without.
        """
        low = dict(next_offsets)
        for waiting in self._waiting.values():
            if waiting.partition in low:
                low[waiting.partition] = min(low[waiting.partition], waiting.offset)
        return low

    def _lines(self, now_s: float) -> dict[str, deque[list[Waiting]]]:
        """What may be taken, by queue, in order of arrival: rollouts, or groups nobody has to wait for."""
        by_group = bool(self._rule.groups)
        units: dict[UUID, list[Waiting]] = {}
        for rollout_id, waiting in self._waiting.items():
            units.setdefault(waiting.sample.group_id if by_group else rollout_id, []).append(waiting)
        lines: dict[str, deque[list[Waiting]]] = {}
        for unit in units.values():
            if not by_group or self._is_whole(unit) or self._is_overdue(unit, now_s):
                lines.setdefault(unit[0].sample.queue, deque()).append(unit)
        return lines

    def _is_whole(self, unit: Sequence[Waiting]) -> bool:
        sample = unit[0].sample
        seen = self._settled.get(sample.group_id, set()).union(each.sample.rollout_id for each in unit)
        return len(seen) >= (sample.group_samples or sample.group_size)

    def _plan(self, lines: Mapping[str, deque[list[Waiting]]]) -> "_Plan":
        """Units in turn until a limit is reached or none is left."""
        rule, turns, plan = self._rule, self._turns, _Plan(clock=self._turns.clock)
        for queue in lines:
            before = turns.served.get(queue, 0.0)
            plan.served[queue] = before if queue in turns.contending else max(before, turns.clock)
        while active := [queue for queue, line in lines.items() if line]:
            # Of two that had as much, the one whose next lies first; when that was read a crash may change.
            queue = min(active, key=lambda each: (plan.served[each], lines[each][0][0].offset, each))
            tokens = plan.tokens + _tokens(lines[queue][0])
            if plan.members and rule.tokens and tokens > rule.tokens:
                plan.full = True
                return plan
            unit = lines[queue].popleft()
            plan.members += unit
            plan.units, plan.tokens = plan.units + 1, tokens
            plan.clock = max(plan.clock, plan.served[queue])
            plan.served[queue] += rule.cost(unit) / rule.weight(queue)
            if rule.is_full(len(plan.members), plan.units, plan.tokens):
                plan.full = True
                return plan
        plan.full = len(plan.members) >= rule.min_rollouts and any(map(self._is_at_share, lines))
        return plan

    def _is_at_share(self, queue: str) -> bool:
        return 0 < self._rule.share <= self._counts[queue]

    def _is_time(self, plan: "_Plan", now_s: float) -> bool:
        return len(plan.members) >= self._rule.min_rollouts and self._is_overdue(plan.members, now_s)

    def _is_overdue(self, members: Iterable[Waiting], now_s: float) -> bool:
        return now_s - min(waiting.arrived_s for waiting in members) >= self._rule.timeout_s

    def _remove(self, gone: Iterable[Waiting]) -> None:
        for waiting in gone:
            del self._waiting[waiting.sample.rollout_id]
            self._counts[waiting.sample.queue] -= 1


def _tokens(unit: Iterable[Waiting]) -> int:
    return sum(waiting.sample.sampled_tokens for waiting in unit)
