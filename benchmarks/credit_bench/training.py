"""One run: waves of rollouts, each scored, credited and trained on by the services' own code.

What a service does between its topics is called here with values, in the order in which the log would bring
them. A wave is sampled by the newest version; what it yields makes at most one learner step.
"""

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import torch

from credit_bench.arms import Arm
from credit_bench.effort import Effort, Result
from credit_bench.environments import Environment
from credit_bench.sampling import NOON, Policy
from leyden_credit.crediting import Crediting
from leyden_credit.estimators import chosen
from leyden_credit.groups import ClosedGroup, Groups
from leyden_inference.loading import Loader
from leyden_learner.batching import BatchRule, SampleBuffer, Waiting
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.outcome import Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.trainer import Trainer
from leyden_platform.conversation import turns
from leyden_reward.air.own import OwnRules
from leyden_reward.air.own_worker import OwnRule, own_rule
from leyden_reward.app import intermediate_rewards
from leyden_reward.assembly import Assembly, Closed
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.verdict import Refused, Verdict, verdict
from leyden_reward.scoring import Scoring
from leyden_reward.settings import RewardSettings
from leyden_schemas import EventMessage, RolloutAssigned, Split, Task, TrainingSample, Trajectory

log = logging.getLogger("credit_bench")


class InProcess:
    """The example's reward function where the service's worker processes would be."""

    def __init__(self, functions: Mapping[str, Callable[[Trajectory], float]]) -> None:
        self._functions = functions

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """What the service would make of the function's value."""
        return verdict(self._functions[name](trajectory), by=name, max_reward=1e6)


class OwnInProcess:
    """The example's intermediate rewards where the service's worker processes would be."""

    def __init__(self, functions: Sequence[Callable[..., list[float]]]) -> None:
        self._functions = {function.__name__: function for function in functions}

    @property
    def rules(self) -> dict[str, OwnRule]:
        """By name."""
        return {name: own_rule(name, function) for name, function in self._functions.items()}

    async def measure(self, name: str, trajectory: Trajectory) -> list[float] | Refused:
        """What the rule sees in every step."""
        return self._functions[name](turns(trajectory.steps))


class Run:
    """One environment trained by one arm from one seed."""

    def __init__(
        self, environment: Environment, arm: Arm, effort: Effort, *, seed: int, folder: Path
    ) -> None:
        self._environment, self._effort = environment, effort
        self._draws = random.Random(f"{environment.name}-{seed}")
        self._offsets = count()
        grader = Grader(InProcess({environment.name: environment.reward}))
        own = OwnRules(OwnInProcess(environment.rules))
        self._scoring = Scoring(grader, intermediate_rewards(RewardSettings()), own_rules=own)
        self._groups = Groups()
        self._crediting = Crediting(chosen(arm.estimator), air=arm.air)
        settings = LearnerSettings(
            policy=environment.name,
            lr=arm.lr,
            epochs=effort.epochs,
            betas=(0.9, 0.95),
            warmup_steps=2,
            seed=seed,
            threads=1,
            device="cpu",
        )
        self._buffer = SampleBuffer(BatchRule(settings.min_rollouts, timeout_s=0.0, rollouts=effort.wave))
        self._store = CheckpointStore(folder, environment.name, "bench")
        self._trainer = Trainer.begin(settings, environment.seed_model, environment.seed_model)
        self._loader = Loader()
        self._folder = environment.seed_model
        self._policy = Policy(self._loader, self._folder, environment.name, 0)
        self._training = iter(
            environment.tasks(
                effort.waves * effort.groups, split=Split.TRAIN, seed=seed, samples=effort.samples
            )
        )
        self.result = Result()

    def finish(self) -> Result:
        """Train for all waves."""
        began = time.perf_counter()
        held_out = self._environment.tasks(self._effort.heldout, split=Split.EVAL, seed=0, samples=1)
        self.result.heldout_before = success(self._roll_out(held_out))
        for _ in range(self._effort.waves):
            self._wave()
        self.result.heldout = success(self._roll_out(held_out))
        self.result.seconds = time.perf_counter() - began
        return self.result

    def _wave(self) -> None:
        tasks = [next(self._training) for _ in range(self._effort.groups)]
        trajectories = self._roll_out(tasks)
        self.result.success.append(success(trajectories))
        self.result.calls.append(sum(len(one.steps) for one in trajectories) / len(trajectories))
        for sample in self._credited(trajectories):
            self._buffer.add(Waiting(sample, 0, next(self._offsets), arrived_s=0.0))
        if ready := self._buffer.step(now_s=0.0):
            self._step([waiting.sample for waiting in ready])

    def _roll_out(self, tasks: Sequence[Task]) -> list[Trajectory]:
        assigned = [one for task in tasks for one in RolloutAssigned.fan_out(task)]
        episodes = [self._environment.begin(one.task.input) for one in assigned]
        events = self._policy.roll_out(assigned, episodes, self._draws)
        return asyncio.run(self._scored([event for one in events for event in one]))

    async def _scored(self, events: Sequence[EventMessage]) -> list[Trajectory]:
        assembly = Assembly()
        decisions = [d for event in events for d in assembly.take(event, next(self._offsets), NOON)]
        return [await self._scoring.score(closed) for closed in decisions if isinstance(closed, Closed)]

    def _credited(self, trajectories: Sequence[Trajectory]) -> Iterator[TrainingSample]:
        for trajectory in trajectories:
            for decision in self._groups.take(trajectory, next(self._offsets), NOON):
                if isinstance(decision, ClosedGroup):
                    credited = self._crediting.credit(decision)
                    self.result.groups_dropped += credited.group is not None
                    yield from credited.samples

    def _step(self, samples: Sequence[TrainingSample]) -> None:
        outcome = self._trainer.advance(samples, self._policy.version)
        if not isinstance(outcome, Trained):
            self.result.steps_skipped += 1
            log.warning("step skipped: %s", outcome.reason)
            return
        self.result.steps += 1
        self.result.trained += len(samples)
        before = self._folder
        self._folder = self._store.write(self._trainer.step, before, self._trainer.save)
        self._policy = Policy(self._loader, self._folder, self._environment.name, self._policy.version + 1)
        if before != self._environment.seed_model:
            shutil.rmtree(before)


def success(trajectories: Sequence[Trajectory]) -> float:
    """Mean final reward."""
    return sum(trajectory.reward for trajectory in trajectories) / len(trajectories)


def train(environment: Environment, arm: Arm, effort: Effort, *, seed: int, folder: Path) -> Result:
    """One run on one core, repeatable for a seed."""
    torch.set_num_threads(1)
    return Run(environment, arm, effort, seed=seed, folder=folder).finish()
