"""A replay on a real broker, against what the live services published from the same log."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from member_harness import Member, of_rollouts, read_until

from leyden_credit.app import processors as credit_processors
from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, Record, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.testing.rollouts import Rollout, answer, call, make_task, tool_message
from leyden_replay.definitions import Changes, Definitions, definitions
from leyden_replay.edges import LogEdge
from leyden_replay.replay import Request, replay
from leyden_replay.roster import Selection
from leyden_replay.stream import OtherDefinitions, topics_of
from leyden_replay.stretch import NothingThere
from leyden_replay.summary import Summary
from leyden_reward.app import processors as reward_processors
from leyden_reward.rewards.workers import RewardWorkers
from leyden_schemas import (
    EventMessage,
    Mode,
    RewardSpec,
    Topic,
    Topics,
    TrainingSample,
    Trajectory,
    encode,
)

pytestmark = pytest.mark.kafka
USER_CODE = """
def graded(trajectory):
    right = trajectory.output == trajectory.task.reference
    return {"right": float(right), "brief": 0.1 / max(1, len(trajectory.steps))}
"""


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher; the topics exist."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's reward function."""
    (tmp_path / "replayed_rewards.py").write_text(USER_CODE)
    return tmp_path


@dataclass
class Lived:
    """A log of events, and what the live services made of it."""

    kafka: KafkaSettings
    events: str
    rollouts: list[Rollout]
    definitions: Definitions

    @property
    def ids(self) -> set[UUID]:
        """Every rollout."""
        return {rollout.rollout_id for rollout in self.rollouts}

    async def live(self, topic: Topic) -> dict[UUID, Any]:
        """What the live services published, by rollout."""
        return {message.rollout_id: message for message in await of_rollouts(self.kafka, topic, self.ids)}

    def request(self, name: str, changes: Changes | None = None, **more: Any) -> Request:
        """A replay of all of it."""
        return Request(
            **{
                "name": name,
                "kafka": self.kafka,
                "since": LogEdge.BEGINNING,
                "until": LogEdge.END,
                "definitions": definitions(changes, kafka=self.kafka) if changes else self.definitions,
                "now": datetime.now(UTC),
                "events": self.events,
                **more,
            }
        )


def story(rollout: Rollout, output: str, steps: int) -> list[EventMessage]:
    """A rollout of some tool calls and an answer, in which each prompt continues the last."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "2 + 2"}]
    tokens = [1, 2]
    told: list[EventMessage] = [rollout.started()]
    for step in range(steps):
        last = step == steps - 1
        said = answer(output) if last else answer(None, [call(call_id=f"c{step}")])
        told.append(
            rollout.completion(
                request={"messages": list(messages)},
                response=said,
                prompt_token_ids=list(tokens),
                token_ids=[10 + step],
                logprobs=[-0.1 / (step + 3)],
                version=3 + step % 2,
            )
        )
        messages += [
            said["choices"][0]["message"],
            tool_message("Error: no" if step % 2 else "4", f"c{step}"),
        ]
        tokens += [10 + step, 5]
    return [*told, rollout.finished(output)]


async def lived(kafka: KafkaSettings, publisher: KafkaPublisher, folder: Path, *, groups: int = 6) -> Lived:
    """Groups of four, interleaved on three partitions, scored and credited by the services as they came."""
    events = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=3)
    await ensure_topics(kafka, [events])
    now = definitions(
        Changes(
            reward="replayed_rewards:graded", path=[folder], estimator={"name": "return_to_go", "gamma": 0.9}
        ),
        kafka=kafka,
    )
    assert now.change is not None
    told = Lived(kafka, events.name, [], Definitions(now.reward, now.credit, None))
    task = make_task(samples=4, reward=RewardSpec(name=now.change.name))
    stories = []
    for number in range(groups):
        group_id = uuid4()
        for index in range(4):
            rollout = Rollout(
                task=task.model_copy(update={"task_id": f"t{number}"}), group_id=group_id, index=index
            )
            told.rollouts.append(rollout)
            stories.append(
                story(rollout, "4" if (number + index) % 3 else "5", steps=1 + (number + index) % 4)
            )
    for turn in range(max(map(len, stories))):
        await publisher.publish(*(s[turn] for s in stories if turn < len(s)), topic=events.name)
    await services(told, publisher)
    return told


async def services(told: Lived, publisher: KafkaPublisher) -> None:
    """Let reward and credit go over the events until every rollout has a sample."""
    settings, credit = told.definitions.reward, told.definitions.credit
    trajectories = Topic(f"{Topics.TRAJECTORIES.name}.{uuid4().hex}", partitions=2)
    await ensure_topics(told.kafka, [trajectories])
    workers = RewardWorkers(settings.catalogue, count=2)
    await workers.start()
    scores = reward_processors(settings, workers, publisher, SystemClock())
    reward = Member(told.kafka, uuid4().hex, told.events, publisher, scores)
    found = await of_rollouts(told.kafka, Topics.TRAJECTORIES, told.ids)
    await reward.leave()
    await workers.stop()
    await publisher.publish(*found, topic=trajectories.name)
    credits_ = Member(
        told.kafka,
        uuid4().hex,
        trajectories.name,
        publisher,
        credit_processors(credit, publisher, SystemClock()),
    )
    await of_rollouts(told.kafka, Topics.SAMPLES, told.ids)
    await credits_.leave()


async def written(
    kafka: KafkaSettings, name: str, summary: Summary
) -> tuple[list[Trajectory], list[TrainingSample]]:
    """What lies in a replay's stream."""
    trajectories, samples = topics_of(name)
    first = await read_until(kafka, trajectories, lambda seen: len(seen) >= summary.counts.rollouts)
    second = await read_until(kafka, samples, lambda seen: len(seen) >= summary.counts.samples)
    return [record.message() for record in first], [record.message() for record in second]


async def test_the_same_definitions_give_the_live_samples_again_bit_for_bit(
    kafka: KafkaSettings, publisher: KafkaPublisher, folder: Path
) -> None:
    told = await lived(kafka, publisher, folder)
    name = uuid4().hex
    summary = await replay(told.request(name))
    assert summary.counts.rollouts == summary.counts.samples == 24
    assert summary.comparison is not None
    assert summary.comparison.samples.model_dump() == {
        "identical": 24, "different": 0, "only_before": 0, "only_after": 0,
    }  # fmt: skip
    trajectories, samples = await written(kafka, name, summary)
    live = await told.live(Topics.SAMPLES)
    assert len(samples) == 24
    for sample in samples:
        as_live = sample.model_copy(update={"run": "default", "sample_id": live[sample.rollout_id].sample_id})
        assert encode(as_live) == encode(live[sample.rollout_id])
        assert sample.run == name
        assert sample.sample_id != live[sample.rollout_id].sample_id
    before = await told.live(Topics.TRAJECTORIES)
    for trajectory in trajectories:
        was = before[trajectory.rollout_id]
        again = trajectory.model_copy(update={"run": "default", "trajectory_id": was.trajectory_id})
        assert encode(again) == encode(was)


async def test_a_replay_under_other_definitions_is_compared_and_a_repeat_adds_nothing(
    kafka: KafkaSettings, publisher: KafkaPublisher, folder: Path
) -> None:
    told = await lived(kafka, publisher, folder, groups=3)
    name = uuid4().hex
    other = Changes(reward="exact_match", estimator="grpo", air_cap=0.0, path=[folder])
    first = await replay(told.request(name, other))
    assert first.comparison is not None
    final, air, _ = first.comparison.measures
    assert (final.compared, final.down, final.up) == (12, 12, 0)
    assert final.after is not None
    assert {final.after.minimum, final.after.maximum} == {0.0, 1.0}
    assert air.after is not None
    assert (air.after.minimum, air.after.maximum) == (0.0, 0.0)
    assert first.comparison.samples.different == 12
    assert first.estimators == {"grpo": 12}
    assert first.written == {"trajectories": 12, "samples": 12}
    _, samples = await written(kafka, name, first)
    assert {sample.estimator for sample in samples} == {"grpo"}

    again = await replay(told.request(name, other))
    assert again.written == {"trajectories already there": 12, "samples already there": 12}
    _, unchanged = await written(kafka, name, again)
    assert len(unchanged) == len(samples)
    with pytest.raises(OtherDefinitions, match="choose another name"):
        await replay(told.request(name, Changes(reward="exact_match", estimator="rloo", path=[folder])))


async def test_a_dry_run_writes_nothing_and_makes_no_topics(
    kafka: KafkaSettings, publisher: KafkaPublisher, folder: Path
) -> None:
    told = await lived(kafka, publisher, folder, groups=1)
    name = uuid4().hex
    summary = await replay(told.request(name, dry_run=True))
    assert (summary.counts.samples, summary.written) == (4, {})
    assert await ensure_topics(kafka, topics_of(name)) == [topic.name for topic in topics_of(name)]


async def test_user_code_that_misbehaves_excludes_its_rollouts_with_a_reason(
    kafka: KafkaSettings, publisher: KafkaPublisher, folder: Path
) -> None:
    (folder / "bad_rewards.py").write_text("import sys\ndef leaves(trajectory): sys.exit(3)\n")
    told = await lived(kafka, publisher, folder, groups=1)
    summary = await replay(told.request(uuid4().hex, Changes(reward="bad_rewards:leaves", path=[folder])))
    assert summary.counts.excluded == {"reward_exited": 4}
    assert "sys.exit" in summary.examples["reward_exited"]
    assert summary.comparison is not None
    assert summary.comparison.statuses == {"scored -> excluded (reward_exited)": 4}
    assert summary.comparison.samples.only_before == 4
    assert summary.dropped["credit_groups_dropped (too_few)"] == 1


async def test_nothing_in_the_stretch_is_an_error_that_says_what_was_seen(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    events = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=2)
    await ensure_topics(kafka, [events])
    request = Lived(kafka, events.name, [], definitions(Changes(), kafka=kafka)).request(
        uuid4().hex, dry_run=True
    )
    with pytest.raises(NothingThere, match="no events between"):
        await replay(request)
    rollout = Rollout()
    await publisher.publish(rollout.started(), rollout.completion(), topic=events.name)
    with pytest.raises(NothingThere, match="1 rollouts were not finished"):
        await replay(request)
    for selection, said in ((Selection(tenant="x"), "2 of other tenants"), (Selection(), "not finished")):
        with pytest.raises(NothingThere, match=said):
            await replay(replace(request, selection=selection))


async def test_sessions_and_feedback_that_came_late_are_as_they_were(
    kafka: KafkaSettings, publisher: KafkaPublisher
) -> None:
    events = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=2)
    await ensure_topics(kafka, [events])
    told = Lived(kafka, events.name, [Rollout() for _ in range(5)], definitions(Changes(), kafka=kafka))
    by_shop: dict[str, Any] = {"source": "shop"}
    for number, session in enumerate(told.rollouts):
        asked = session.completion(mode=Mode.PRODUCTION, session=f"s{number}")
        await publisher.publish(
            asked,
            session.signal(1.0, **by_shop),
            session.finished("4", **by_shop),
            topic=events.name,
        )
        if number % 2:
            word = session.signal(
                None, name="correction", text="5", completion_id=asked.completion_id, **by_shop
            )
            await publisher.publish(session.signal(-1.0, **by_shop), word, topic=events.name)
    workers = RewardWorkers(told.definitions.reward.catalogue, count=1)
    scores = reward_processors(told.definitions.reward, workers, publisher, SystemClock())
    reward = Member(kafka, uuid4().hex, events.name, publisher, scores)
    wanted = {
        (r.rollout_id, revision) for n, r in enumerate(told.rollouts) for revision in range(3 if n % 2 else 1)
    }

    def of(records: Sequence[Record]) -> dict[tuple[UUID, int], bytes]:
        found = [record.message() for record in records]
        kept = [
            t.model_copy(update={"run": "", "trajectory_id": UUID(int=0)})
            for t in found
            if t.rollout_id in told.ids
        ]
        return {(t.rollout_id, t.revision): encode(t) for t in kept}

    live = of(await read_until(kafka, Topics.TRAJECTORIES, lambda seen: of(seen).keys() >= wanted))
    await reward.leave()
    name = uuid4().hex
    summary = await replay(told.request(name))
    assert summary.counts.rollouts == 5
    again = of(await read_until(kafka, topics_of(name)[0], lambda seen: of(seen).keys() >= wanted))
    assert again == live
