"""The loop as its users see it: plain messages in, trained versions out, whatever dies in between."""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaProducer
from stack_harness import Watcher, watching

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

TASK: dict[str, Any] = {
    "input": {"question": "3 + 4 * 5"},
    "reference": "23",
    "policy": "calculator#latest",
    "reward": {"name": "calculator"},
}
QUESTIONS = [(f"{a} + {b} * {c}", str(a + b * c)) for a, b, c in [(3, 4, 5), (2, 7, 3), (9, 2, 8), (4, 4, 6)]]


async def send(state: StackState, *values: bytes) -> None:
    """Publish raw bytes as any Kafka client would, knowing nothing of Leyden."""
    producer = AIOKafkaProducer(bootstrap_servers=state.endpoints.kafka, max_request_size=32 * 1024 * 1024)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait("leyden.tasks.v1", value)
    finally:
        await producer.stop()


def tasks(run: str, **changes: Any) -> list[bytes]:
    """One message per question."""
    return [
        json.dumps(TASK | {"run": run, "input": {"question": q}, "reference": answer} | changes).encode()
        for q, answer in QUESTIONS
    ]


def trajectories(watcher: Watcher, run: str) -> list[Trajectory]:
    return [t for t in watcher.of(Trajectory) if t.run == run]


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
        version = max(m.version for m in seen.of(ModelPublished))
        run = uuid4().hex
        await send(running_stack, *tasks(run, split="eval", policy=f"calculator@{version}"))
        await seen.until(lambda: len(trajectories(seen, run)) == 4, "four evaluations")
    assert {step.version for t in trajectories(seen, run) for step in t.steps} == {version}


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


async def test_kill_nine_of_any_service_loses_nothing(running_stack: StackState, tmp_path: Path) -> None:
    """Each service in turn dies while rollouts are under way; the supervisor restarts it."""
    run = uuid4().hex
    async with watching(running_stack.endpoints.kafka, Topics.TRAJECTORIES.name) as seen:
        await send(
            running_stack,
            *tasks(run, samples=8, split="eval"),
            *tasks(run, samples=8, split="eval", task_id=None),
        )
        for name in ("runner", "reward", "gateway", "credit", "inference"):
            await seen.until(lambda: bool(trajectories(seen, run)), "the first rollouts")
            os.kill(_pid(running_stack, f"leyden_{name}"), signal.SIGKILL)
        await seen.until(lambda: len({t.rollout_id for t in trajectories(seen, run)}) == 64, "64 rollouts")
    by_rollout = {t.rollout_id: t for t in trajectories(seen, run)}
    assert {t.status for t in by_rollout.values()} == {TrajectoryStatus.SCORED}
    ids = {t.trajectory_id for t in trajectories(seen, run)}
    assert len(ids) == 64, "a replay repeats ids, never adds trajectories"


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
