"""What the demo asks of the stack: evaluations of fixed versions, and paced training."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from leyden_local.demo.log import DemoFailed, RunLog
from leyden_local.demo.options import RUN, DemoOptions
from leyden_local.demo.pacing import admissible
from leyden_local.demo.statistics import Rate
from leyden_local.demo.tally import Tally
from leyden_platform.messaging import Publisher
from leyden_schemas import Limits, RewardSpec, Sampling, Split, Task, TrajectoryStatus, policy_at

MAX_COMPLETIONS = 8


@dataclass(frozen=True, slots=True)
class Asker:
    """Makes an example's problems into the messages that any producer could send."""

    policy: str
    """Also the name of the reward."""
    rollout_timeout_s: float

    def task(
        self,
        problem: dict[str, Any],
        run: str,
        task_id: str,
        *,
        policy: str,
        split: Split = Split.TRAIN,
        samples: int = 1,
        temperature: float = 1.0,
    ) -> Task:
        """One problem, to be tried ``samples`` times by the version that ``policy`` means."""
        return Task(
            run=run,
            task_id=task_id,
            input={"question": problem["question"]},
            reference=problem["answer"],
            policy=policy,
            samples=samples,
            reward=RewardSpec(name=self.policy),
            split=split,
            limits=Limits(timeout_s=self.rollout_timeout_s, max_completions=MAX_COMPLETIONS),
            sampling=Sampling(temperature=temperature),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out success of one version, greedy or sampled."""

    version: int
    temperature: float
    rate: Rate
    excluded: int

    @property
    def mode(self) -> str:
        """``greedy`` or ``sampled``."""
        return "greedy" if self.temperature == 0 else "sampled"


async def evaluate(
    log: RunLog,
    publisher: Publisher,
    asker: Asker,
    problems: Sequence[dict[str, Any]],
    version: int,
    temperature: float,
    timeout_s: float,
) -> Evaluation:
    """Success of ``policy@version`` on the problems. Raises ``DemoFailed`` when they do not all come back."""
    run = f"evaluate-{version}-{'greedy' if temperature == 0 else 'sampled'}"
    tally = log.open(run, asker.policy)
    tasks = [
        asker.task(
            problem,
            run,
            f"{run}-{i}",
            split=Split.EVAL,
            policy=policy_at(asker.policy, version),
            temperature=temperature,
        )
        for i, problem in enumerate(problems)
    ]
    tally.ask(tasks)
    await publisher.publish(*tasks)
    await log.until(lambda: tally.running <= 0, timeout_s, f"{len(tasks)} evaluations of version {version}")
    scored = [t for t in tally.finished.values() if t.status is TrajectoryStatus.SCORED]
    if not scored:
        raise DemoFailed(f"every evaluation of version {version} was excluded: {_reasons(tally)}")
    rate = Rate(sum(t.reward >= 1.0 for t in scored), len(scored))
    return Evaluation(version, temperature, rate, len(tasks) - len(scored))


async def train(
    log: RunLog,
    publisher: Publisher,
    asker: Asker,
    problems: Iterator[dict[str, Any]],
    options: DemoOptions,
) -> Tally:
    """Publish tasks as fast as staleness allows until the learner made its steps. Raises ``DemoFailed``."""
    tally = log.open(RUN, asker.policy)
    numbered = enumerate(problems)

    async def feed() -> None:
        room = admissible(
            staleness=options.staleness,
            batch=options.batch_rollouts,
            trained=tally.trained,
            accepted=len(tally.accepted),
            running=tally.running,
        )
        tasks = [
            asker.task(problem, RUN, f"train-{i}", samples=options.samples, policy=f"{asker.policy}#latest")
            for i, problem in islice(numbered, room // options.samples)
        ]
        tally.ask(tasks)
        await publisher.publish(*tasks)

    try:
        async with asyncio.timeout(options.train_timeout_s):
            while tally.step < options.steps:
                await feed()
                await log.changed(0.5)
    except TimeoutError:
        raise DemoFailed(
            f"{tally.step} of {options.steps} learner steps within {options.train_timeout_s:g} s; "
            f"{len(tally.finished)} of {tally.asked} rollouts came back, {len(tally.accepted)} became samples"
        ) from None
    return tally


def _reasons(tally: Tally) -> str:
    reasons = {t.excluded_reason or "" for t in tally.finished.values()}
    return ", ".join(sorted(reasons))
