"""Judges on a real broker and through the real gateway: one verdict at a time, and a group ranked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from gateway_harness import running_gateway
from judge_stub import judging, ranked, scored
from member_harness import of_rollouts, read_until
from vllm_stub import VllmStub, serving

from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.routing.settings import RoutingSettings
from leyden_platform.messaging import KafkaPublisher, Record, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_task
from leyden_reward.app import build
from leyden_reward.rewards.judging.settings import JudgeSettings
from leyden_reward.settings import RewardSettings
from leyden_schemas import (
    CompletionRecorded,
    Outcome,
    RewardSpec,
    RolloutAssigned,
    Topics,
    Trajectory,
    TrajectoryStatus,
)

pytestmark = pytest.mark.kafka
KEY = "a-key-for-the-judges-calls"


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher; the topics exist."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@asynccontextmanager
async def running(settings: RewardSettings) -> AsyncIterator[None]:
    """The composed service."""
    components, stop = await build(settings), asyncio.Event()
    tasks = [asyncio.create_task(component.run(stop)) for component in components]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)


def rollouts_of(reward: RewardSpec, samples: int) -> list[Rollout]:
    """The rollouts of a new task."""
    task = make_task(task_id=uuid4().hex, reward=reward, samples=samples)
    return [
        Rollout(task=task, group_id=one.group_id, index=one.index, rollout_id=one.rollout_id)
        for one in RolloutAssigned.fan_out(task)
    ]


async def trajectories(kafka: KafkaSettings, rollouts: list[Rollout]) -> dict[int, Trajectory]:
    """What was published of rollouts, by their index."""
    found = await of_rollouts(kafka, Topics.TRAJECTORIES, {one.rollout_id for one in rollouts})
    assert len(found) == len(rollouts)
    return {one.index: one for one in found}


async def test_a_group_is_ranked_over_the_partitions_of_its_rollouts(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    spec = RewardSpec(name="ruler", params={"show": "conversation"})
    rollouts = rollouts_of(spec, 4)
    async with judging(ranked(lambda material: material.count("#") / 10)) as judge:
        settings = RewardSettings(kafka=kafka, group=uuid4().hex, judge=JudgeSettings(url=judge.url))
        async with running(settings):
            for rollout in rollouts[:3]:
                output = "#" * (rollout.index + 1)
                await publisher.publish(rollout.started(), rollout.completion(), rollout.finished(output))
            failed = rollouts[3].finished(None, outcome=Outcome.AGENT_FAILED)
            await publisher.publish(rollouts[3].started(), failed)
            found = await trajectories(kafka, rollouts)
    assert [found[index].reward for index in range(4)] == [0.1, 0.2, 0.3, 0.0]
    assert {one.status for one in found.values()} == {TrajectoryStatus.SCORED}
    assert all(len(found[index].steps) == 1 and found[index].steps[0].prompt_token_ids for index in range(3))
    (body,) = judge.bodies
    assert "2 + 2" in body["messages"][1]["content"]


async def test_a_judge_is_asked_through_the_gateway_and_recorded(
    kafka: KafkaSettings, publisher: KafkaPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_JUDGE_CALLER", KEY)
    policy = f"calculator-{uuid4().hex[:8]}"
    (rollout,) = rollouts_of(RewardSpec(name="judge", params={"rubric": "be right"}), 1)
    async with (
        serving(VllmStub(models={f"{policy}@1"})) as replica,
        judging(scored(0.5, "half right")) as judge,
    ):
        routing = RoutingSettings.model_validate(
            {"externals": {"judge": {"base_url": judge.url, "model": "big"}}}
        )
        grant = KeyGrant(key_env="TEST_JUDGE_CALLER", tenant="judges")
        keys = AttributionSettings(api_keys={"reward": grant})
        async with running_gateway(kafka, policy, replica.url, routing=routing, attribution=keys) as gateway:
            settings = RewardSettings(
                kafka=kafka,
                group=uuid4().hex,
                judge=JudgeSettings(url=f"{gateway.url}/v1", model="judge", api_key=KEY),
            )
            async with running(settings):
                await publisher.publish(rollout.started(), rollout.completion(), rollout.finished("4"))
                (trajectory,) = (await trajectories(kafka, [rollout])).values()
    assert (trajectory.reward, trajectory.final[0].feedback) == (0.5, "half right")
    assert judge.bodies[0]["model"] == "big"

    def recorded(records: Sequence[Record]) -> list[CompletionRecorded]:
        messages = [record.message() for record in records if record.value]
        mine = f"judge-{rollout.rollout_id}"
        return [one for one in messages if isinstance(one, CompletionRecorded) and one.session == mine]

    (record,) = recorded(await read_until(kafka, Topics.EVENTS, lambda seen: bool(recorded(seen))))
    assert (record.policy, record.untrainable) == ("external:judge", "external")
    assert (record.tenant, record.agent) == ("judges", "judge")
