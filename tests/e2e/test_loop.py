"""The loop as its users see it: plain messages in, trained versions out, whatever dies in between."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest
from stack_harness import TASK, Watcher, send, tasks, watching

from leyden_local.state import StackState
from leyden_schemas import (
    CompletionRecorded,
    DeadLetter,
    ModelPublished,
    Topics,
    TrainingSample,
    Trajectory,
    TrajectoryStatus,
)

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(400)]


def trajectories(watcher: Watcher, run: str) -> list[Trajectory]:
    return [t for t in watcher.of(Trajectory) if t.run == run]


def newest(watcher: Watcher) -> int:
    """The last version that was trained, 0 before the first."""
    return max((m.version for m in watcher.of(ModelPublished) if m.step is not None), default=0)


async def test_plain_messages_are_executed_scored_and_trained_on(running_stack: StackState) -> None:
    topics = (Topics.EVENTS, Topics.TRAJECTORIES, Topics.SAMPLES, Topics.MODELS)
    async with watching(running_stack.endpoints.kafka, *(topic.name for topic in topics)) as seen:
        await send(running_stack, *tasks("default", samples=8))
        await seen.until(lambda: len(trajectories(seen, "default")) == 32, "32 scored rollouts")
        await seen.until(lambda: any(m.step == 1 for m in seen.of(ModelPublished)), "a trained version")
    for trajectory in trajectories(seen, "default"):
        assert trajectory.status is TrajectoryStatus.SCORED
        assert trajectory.reward in (0.0, 1.0)
        right = str(trajectory.output).strip() == trajectory.task.reference
        assert trajectory.reward == float(right)
        assert all(
            step.version is not None and len(step.logprobs) == len(step.token_ids)
            for step in trajectory.steps
        )
    completions = {c.completion_id: c for c in seen.of(CompletionRecorded)}
    samples = seen.of(TrainingSample)
    assert samples
    for sample in samples:
        for row in sample.rows:
            for span in row.spans:
                recorded = completions[span.completion_id]
                assert row.token_ids[span.start : span.stop] == recorded.token_ids, "the sampler's own ids"
                assert span.logprobs == recorded.logprobs


async def test_the_trained_version_is_served(running_stack: StackState) -> None:
    async with watching(running_stack.endpoints.kafka, Topics.MODELS.name, Topics.TRAJECTORIES.name) as seen:
        await seen.until(lambda: any(m.step for m in seen.of(ModelPublished)), "a trained version")
        evaluated: list[Trajectory] = []
        while len(evaluated) < 4:
            version = newest(seen)
            evaluated = await evaluations(running_stack, seen, version)
    assert {step.version for t in evaluated for step in t.steps} == {version}


async def evaluations(stack: StackState, seen: Watcher, version: int) -> list[Trajectory]:
    """Those of a version; what there is of them when another follows, because then it need not be served."""
    run = uuid4().hex
    await send(stack, *tasks(run, split="eval", policy=f"calculator@{version}"))
    await seen.until(
        lambda: len(trajectories(seen, run)) == 4 or newest(seen) > version,
        "four evaluations, or another version",
    )
    return trajectories(seen, run)


async def test_bad_messages_are_dead_lettered_and_disturb_nothing(running_stack: StackState) -> None:
    bad = {
        "malformed": [
            b"not json",
            b"\xff\xfe",
            json.dumps(TASK | {"samples": 0}).encode(),
            json.dumps(TASK | {"samples": 10_000}).encode(),
            json.dumps(TASK | {"input": "text"}).encode(),
            json.dumps(TASK | {"colour": "red"}).encode(),
        ],
        "unknown_policy": [json.dumps(TASK | {"policy": "nobody"}).encode()],
        "unknown_reward": [json.dumps(TASK | {"reward": {"name": "nothing"}}).encode()],
        "unknown_agent": [json.dumps(TASK | {"agent": "stranger"}).encode()],
        "too_large": [json.dumps(TASK | {"reference": "x" * 20 * 1024 * 1024}).encode()],
    }
    run = uuid4().hex
    topics = (Topics.DEADLETTERS.name, Topics.TRAJECTORIES.name)
    async with watching(running_stack.endpoints.kafka, *topics) as seen:
        for messages in bad.values():
            await send(running_stack, *messages)
        await send(running_stack, *tasks(run, split="eval"))
        await seen.until(lambda: len(trajectories(seen, run)) == 4, "the good tasks behind the bad ones")
        expected = Counter({reason: len(messages) for reason, messages in bad.items()})
        await seen.until(lambda: len(seen.of(DeadLetter)) >= expected.total(), "every dead letter")
    assert Counter(letter.reason for letter in seen.of(DeadLetter)) == expected
    large = next(letter for letter in seen.of(DeadLetter) if letter.reason == "too_large")
    assert (large.truncated, large.size > 20 * 1024 * 1024) == (True, True)


async def test_kill_nine_of_any_service_loses_nothing(running_stack: StackState) -> None:
    """Each service in turn dies while rollouts are under way and trained on; the supervisor restarts it."""
    mark = uuid4().hex

    def ours() -> list[Trajectory]:
        return [t for t in trajectories(seen, "default") if t.task.input.get("mark") == mark]

    def rollouts() -> int:
        return len({t.rollout_id for t in ours()})

    def more_than(before: int) -> Callable[[], bool]:
        return lambda: rollouts() > min(before, 63)

    topics = (Topics.TRAJECTORIES, Topics.SAMPLES, Topics.MODELS)
    async with watching(running_stack.endpoints.kafka, *(topic.name for topic in topics)) as seen:
        await send(running_stack, *tasks("default", samples=16, mark=mark))
        for name in ("runner", "reward", "learner", "gateway", "credit", "registry", "inference"):
            before = rollouts()
            await seen.until(more_than(before), "more rollouts")
            os.kill(_pid(running_stack, f"leyden_{name}"), signal.SIGKILL)
        await seen.until(lambda: rollouts() == 64, "64 rollouts")
        killed_at = newest(seen)
        await send(running_stack, *tasks("default", samples=8, mark=mark))
        await seen.until(lambda: rollouts() == 96, "32 rollouts after the kills")
        await seen.until(lambda: newest(seen) > killed_at, "a version trained after the kills")
        assert {t.status for t in ours()} == {TrajectoryStatus.SCORED}
        assert len({t.trajectory_id for t in ours()}) == 96, "a replay repeats ids, never adds trajectories"
        sampled = {sample.rollout_id for sample in seen.of(TrainingSample)}
        await _assert_trained_once(running_stack, sampled)


async def _assert_trained_once(state: StackState, sampled: set[UUID]) -> None:
    """The learner's book: every step took as many rollouts as it says, none twice, and only sampled ones."""
    connection = await asyncpg.connect(state.endpoints.database.replace("+asyncpg", ""))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            trained = await connection.fetch("SELECT rollout_id, step FROM learner.trained_rollouts")
            steps = await connection.fetch("SELECT step, metrics FROM learner.checkpoints WHERE step > 0")
    finally:
        await connection.close()
    ids = [row["rollout_id"] for row in trained]
    assert len(ids) == len(set(ids))
    assert set(ids) <= sampled
    assert sorted(row["step"] for row in steps) == list(range(1, len(steps) + 1))
    taken = Counter(row["step"] for row in trained)
    assert taken == {row["step"]: json.loads(row["metrics"])["rollouts"] for row in steps}


def _pid(state: StackState, module: str) -> int:
    """The process of a service now, which is not that of the start once it was restarted."""
    children = psutil.Process(state.pid).children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return next(child.pid for child in living if module in child.cmdline())


async def test_every_service_answers_on_its_ops_port(running_stack: StackState) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        for name, process in running_stack.processes.items():
            if process.ops_port is None:
                continue
            base = f"http://127.0.0.1:{process.ops_port}"
            async with asyncio.timeout(120):
                while True:
                    try:
                        if (await client.get(f"{base}/readyz")).status_code == 200:
                            break
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(0.2)
            assert (await client.get(f"{base}/healthz")).status_code == 200
            metrics = (await client.get(f"{base}/metrics")).text
            assert f"leyden_{name}_" in metrics or "leyden_consumer_" in metrics
