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

POLICY = "calculator"
REWARD = RewardSpec(name="calculator")
LIMITS = Limits(timeout_s=60, max_completions=8)


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
    problems: Sequence[dict[str, Any]],
    version: int,
    temperature: float,
    timeout_s: float,
) -> Evaluation:
    """Success of ``policy@version`` on the problems. Raises ``DemoFailed`` when they do not all come back."""
    run = f"evaluate-{version}-{'greedy' if temperature == 0 else 'sampled'}"
    tally = log.open(run, POLICY)
    tasks = [
        make_task(
            problem,
            run,
            f"{run}-{i}",
            split=Split.EVAL,
            policy=policy_at(POLICY, version),
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
    log: RunLog, publisher: Publisher, problems: Iterator[dict[str, Any]], options: DemoOptions
) -> Tally:
    """Publish tasks as fast as staleness allows until the learner made its steps. Raises ``DemoFailed``."""
    tally = log.open(RUN, POLICY)
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
            make_task(problem, RUN, f"train-{i}", samples=options.samples, policy=f"{POLICY}#latest")
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


def make_task(
    problem: dict[str, Any],
    run: str,
    task_id: str,
    *,
    policy: str,
    split: Split = Split.TRAIN,
    samples: int = 1,
    temperature: float = 1.0,
) -> Task:
    """A calculator problem as the message any producer could send."""
    return Task(
        run=run,
        task_id=task_id,
        input={"question": problem["question"]},
        reference=problem["answer"],
        policy=policy,
        samples=samples,
        reward=REWARD,
        split=split,
        limits=LIMITS,
        sampling=Sampling(temperature=temperature),
    )


def _reasons(tally: Tally) -> str:
    reasons = {t.excluded_reason or "" for t in tally.finished.values()}
    return ", ".join(sorted(reasons))
