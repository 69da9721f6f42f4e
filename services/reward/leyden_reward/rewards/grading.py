"""Which reward a task names, where it runs, and how compositions are put together.

The user's functions go before the library's. Everything ends in a verdict; what a task misspells, a judge
that is away or a sandbox that cannot start are refusals, which exclude the rollout.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from leyden_reward.rewards import composition
from leyden_reward.rewards.library import IN_WORKERS, QUICK
from leyden_reward.rewards.library.texts import TaskFault
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict, verdict
from leyden_schemas import RewardSpec, Trajectory
from leyden_schemas.rewards import (
    LIBRARY,
    Clipped,
    Gated,
    Names,
    Sql,
    UnknownReward,
    Weighted,
    leaves,
    params_of,
)


class Workers(Protocol):
    """Where the user's functions run, and those of the library that need it."""

    def __contains__(self, name: str) -> bool: ...

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """The verdict of the function ``name``; user code's failures are refusals, never exceptions."""
        ...


class Grades(Protocol):
    """One reward that needs more than the trajectory: a model, a sandbox."""

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """The verdict by ``trajectory.task.reward``."""
        ...


class Grader:
    """Gives the final reward of one trajectory. ``others`` are the library's rewards that run elsewhere."""

    def __init__(
        self,
        workers: Workers,
        *,
        others: Mapping[str, Grades] | None = None,
        databases: Mapping[str, str] | None = None,
        max_reward: float = 1e6,
        ranks_later: bool = False,
    ) -> None:
        """With ``ranks_later`` relative rewards are left to ``leyden_reward.ranking``: they have no terms."""
        self._workers, self._others = workers, others or {}
        self._databases, self._max_reward = databases or {}, max_reward
        self._ranks_later = ranks_later

    async def grade(self, trajectory: Trajectory, others: Mapping[str, Grades] | None = None) -> Verdict:
        """The verdict by the task's reward; ``others`` go before those of the grader."""
        spec = trajectory.task.reward
        if problem := self._problem(spec):
            return problem
        if self._ranks_later and "ruler" not in (others or {}) and rankings_in(spec, self._workers):
            return Graded((), "")
        judged = await self._grade(spec, trajectory, {**self._others, **(others or {})})
        if isinstance(judged, Refused):
            return judged
        return verdict(list(judged.terms), by=judged.by, max_reward=self._max_reward)

    def _problem(self, spec: RewardSpec) -> Refused | None:
        if spec.name in self._workers:
            return None
        try:
            for _leaf in leaves(spec, self._workers):
                pass
        except UnknownReward as error:
            library = ", ".join(sorted(LIBRARY))
            return Refused(
                Reason.UNKNOWN, f"{error}; add it to LEYDEN_CATALOGUE_REWARDS or use one of {library}"
            )
        except ValueError as error:
            return Refused(Reason.PARAMS, str(error))
        return None

    async def _grade(self, spec: RewardSpec, trajectory: Trajectory, others: Mapping[str, Grades]) -> Verdict:
        if spec.name in self._workers:
            return await self._workers.grade(spec.name, _under(trajectory, spec))
        match spec.name:
            case "weighted":
                return await self._weighted(params_of(spec, Weighted), trajectory, others)
            case "gated":
                return await self._gated(params_of(spec, Gated), trajectory, others)
            case "clipped":
                params = params_of(spec, Clipped)
                of = await self._grade(params.of, trajectory, others)
                return of if isinstance(of, Refused) else composition.clipped(params, of)
            case _:
                return await self._leaf(spec, trajectory, others)

    async def _weighted(
        self, params: Weighted, trajectory: Trajectory, others: Mapping[str, Grades]
    ) -> Verdict:
        verdicts = await asyncio.gather(*(self._grade(part, trajectory, others) for part in params.of))
        return composition.weighted(params.of, verdicts)

    async def _gated(self, params: Gated, trajectory: Trajectory, others: Mapping[str, Grades]) -> Verdict:
        gate = await self._grade(params.gate, trajectory, others)
        if isinstance(gate, Refused):
            return gate
        if not composition.opens(params, gate):
            return composition.closed(params, gate)
        then = await self._grade(params.then, trajectory, others)
        return then if isinstance(then, Refused) else composition.opened(gate, then)

    async def _leaf(self, spec: RewardSpec, trajectory: Trajectory, others: Mapping[str, Grades]) -> Verdict:
        if spec.name in others:
            return await others[spec.name].grade(_under(trajectory, spec))
        if spec.name in QUICK:
            return self._quick(spec, trajectory)
        if spec.name not in IN_WORKERS:
            return Refused(Reason.UNKNOWN, f"{spec.name} does not run here")
        try:
            located = self._located(spec)
        except ValueError as error:
            return Refused(Reason.PARAMS, str(error))
        return await self._workers.grade(spec.name, _under(trajectory, located))

    def _quick(self, spec: RewardSpec, trajectory: Trajectory) -> Verdict:
        try:
            value = QUICK[spec.name](_under(trajectory, spec))
        except TaskFault as error:
            return Refused(Reason.PARAMS, str(error))
        except (ValueError, TypeError, RecursionError) as error:
            return Refused(Reason.RAISED, f"{spec.name}: {error}")
        return verdict(value, by=spec.name, max_reward=self._max_reward)

    def _located(self, spec: RewardSpec) -> RewardSpec:
        """With the file of the database that a task names; no task can name files."""
        if spec.name != "sql" or (name := params_of(spec, Sql).database) is None:
            return spec
        if name not in self._databases:
            known = ", ".join(sorted(self._databases)) or "none"
            raise ValueError(
                f"no database is named {name!r}; known databases: {known} (LEYDEN_REWARD_DATABASES)"
            )
        return RewardSpec(name="sql", params={**spec.params, "database": self._databases[name]})


def rankings_in(spec: RewardSpec, own: Names) -> list[RewardSpec]:
    """The relative rewards in a reward, each once; none in one that cannot be given anyway."""
    try:
        found = {leaf.model_dump_json(): leaf for leaf in leaves(spec, own)}
    except ValueError:
        return []
    return [leaf for leaf in found.values() if leaf.name == "ruler" and "ruler" not in own]


def _under(trajectory: Trajectory, spec: RewardSpec) -> Trajectory:
    """The trajectory as a part of a composition sees it."""
    if spec == trajectory.task.reward:
        return trajectory
    part = RewardSpec(name=spec.name, params=spec.params)
    return trajectory.model_copy(update={"task": trajectory.task.model_copy(update={"reward": part})})
