"""The processor: publishes closed groups once, and keeps their offsets open until acknowledged."""

from collections import Counter

import pytest
from pydantic import ValidationError

from leyden_credit import metrics
from leyden_credit.app import crediting
from leyden_credit.estimators import known
from leyden_credit.groups import Groups
from leyden_credit.handlers import CreditProcessor
from leyden_credit.settings import CreditSettings
from leyden_platform.clock import ManualClock
from leyden_platform.messaging import MemoryPublisher, Partition, PublishFailed, Record, Rejected
from leyden_platform.testing.rollouts import EPOCH, make_step, make_task, make_trajectory
from leyden_schemas import (
    MalformedMessage,
    Message,
    Topics,
    TrainingSample,
    Trajectory,
    cause_id,
    encode,
)

PARTITION = Partition(Topics.TRAJECTORIES.name, 0)


class FlakyPublisher(MemoryPublisher):
    """Fails as told before it keeps anything."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        if self.failures:
            raise self.failures.pop(0)
        await super().publish(*messages, topic=topic)


class Bench:
    """A processor with everything around it under control."""

    def __init__(self, *failures: Exception, settings: CreditSettings | None = None) -> None:
        chosen = settings or CreditSettings()
        self.publisher = FlakyPublisher(*failures)
        self.clock = ManualClock(EPOCH)
        self.processor = CreditProcessor(
            groups=Groups(deadline_s=60),
            crediting=crediting(chosen),
            publisher=self.publisher,
            clock=self.clock,
        )

    def record(self, offset: int, trajectory: Trajectory) -> Record:
        """A trajectory as it lies in the log."""
        stamp = int(self.clock.now().timestamp() * 1000)
        return Record(PARTITION, offset, trajectory.key().encode(), encode(trajectory), {}, stamp)

    async def feed(self, *trajectories: Trajectory, first: int = 0) -> None:
        """Hand over trajectories at consecutive offsets."""
        for offset, trajectory in enumerate(trajectories, first):
            await self.processor.handle(self.record(offset, trajectory))

    @property
    def samples(self) -> list[TrainingSample]:
        """What was published."""
        return [message for message in self.publisher.published if isinstance(message, TrainingSample)]


def group(*rewards: float, name: str = "a") -> list[Trajectory]:
    """All trajectories of one task."""
    task, group_id = make_task(samples=len(rewards)), cause_id("group", name)
    return [
        make_trajectory(reward, task=task, group_id=group_id, index=index)
        for index, reward in enumerate(rewards)
    ]


def counts() -> Counter[str]:
    """What the service counted of trajectories and groups so far; a difference has only what grew."""
    return Counter(
        {
            " ".join([sample.name.removeprefix("leyden_credit_"), *sample.labels.values()]): int(sample.value)
            for family in (
                metrics.TRAJECTORIES_DROPPED,
                metrics.GROUPS,
                metrics.GROUPS_DROPPED,
                metrics.GROUPS_MIXED,
            )
            for metric in family.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
    )


async def test_a_complete_group_is_published() -> None:
    bench = Bench()
    await bench.feed(*group(1.0, 0.0, 1.0))
    assert [sample.reward for sample in bench.samples] == [1.0, 0.0, 1.0]
    assert bench.processor.watermark() is None


async def test_the_watermark_is_the_first_offset_of_the_oldest_open_group() -> None:
    bench = Bench()
    a, b = group(1.0, 0.0, name="a"), group(1.0, 0.0, name="b")
    await bench.feed(a[0], b[0], b[1])
    assert len(bench.samples) == 2
    assert bench.processor.watermark() == 0
    await bench.feed(a[1], first=3)
    assert bench.processor.watermark() is None


async def test_a_deadline_publishes_what_arrived() -> None:
    bench = Bench()
    await bench.feed(*group(1.0, 0.0, 1.0)[:2])
    bench.clock.advance(59)
    await bench.processor.tick()
    assert bench.samples == []
    bench.clock.advance(1)
    await bench.processor.tick()
    assert [sample.group_size for sample in bench.samples] == [2, 2]
    assert bench.processor.watermark() is None


async def test_one_of_many_arriving_gives_nothing_and_lets_the_watermark_move() -> None:
    before = counts()
    bench = Bench()
    await bench.feed(group(*[1.0] * 64)[0])
    bench.clock.advance(60)
    await bench.processor.tick()
    assert bench.samples == []
    assert bench.processor.watermark() is None
    assert counts() - before == {"groups_total deadline": 1, "groups_dropped_total too_few": 1}


async def test_what_is_left_out_is_counted() -> None:
    before = counts()
    bench = Bench()
    one, two = group(1.0, 1.0)
    stranger = one.model_copy(update={"task": make_task(input={"question": "?"}, samples=2)})
    test = one.model_copy(update={"task": make_task(samples=2, split="eval")})
    await bench.feed(one, one, stranger, test, two, two)
    assert bench.samples == []
    assert counts() - before == {
        "trajectories_dropped_total duplicate": 1,
        "trajectories_dropped_total other_task": 1,
        "trajectories_dropped_total eval": 1,
        "trajectories_dropped_total late": 1,
        "groups_total complete": 1,
        "groups_dropped_total zero_variance": 1,
    }
    assert bench.processor.watermark() is None


async def test_a_late_trajectory_changes_no_sample() -> None:
    before = counts()
    bench = Bench()
    one, two, three = group(1.0, 0.0, 1.0)
    await bench.feed(one, two)
    bench.clock.advance(60)
    await bench.feed(three, first=2)
    assert [sample.group_size for sample in bench.samples] == [2, 2]
    assert counts() - before == {"trajectories_dropped_total late": 1, "groups_total deadline": 1}


async def test_groups_of_several_versions_are_counted() -> None:
    before = counts()
    bench = Bench()
    one, two = group(1.0, 0.0)
    await bench.feed(one, two.model_copy(update={"steps": [make_step(version=4)]}))
    await bench.feed(*group(1.0, 0.0, name="b"), first=2)
    assert [sample.oldest_version for sample in bench.samples] == [0, 4, 0, 0]
    assert counts() - before == {"groups_total complete": 2, "groups_mixed_total": 1}


async def test_a_replay_gives_the_same_bytes_in_any_order_of_arrival() -> None:
    """With the group complete, only who belongs to it matters."""
    trajectories = group(1.0, 0.0, 0.5, 0.25)
    for name in known():
        first, second = (Bench(settings=CreditSettings(estimator=name)) for _ in range(2))
        await first.feed(*trajectories)
        await second.feed(*reversed(trajectories))
        assert len(first.samples) == 4
        assert list(map(encode, first.samples)) == list(map(encode, second.samples))


async def test_a_broker_that_was_away_gets_the_samples_on_the_next_try() -> None:
    bench = Bench(PublishFailed("away"), PublishFailed("away"))
    one, two = group(1.0, 0.0)
    await bench.feed(one)
    record = bench.record(1, two)
    with pytest.raises(PublishFailed):
        await bench.processor.handle(record)
    assert bench.processor.watermark() == 0
    await bench.processor.handle(record)
    assert [sample.reward for sample in bench.samples] == [1.0, 0.0]
    assert bench.processor.watermark() is None


async def test_a_sample_too_large_for_the_topic_is_dropped_alone() -> None:
    bench = Bench(Rejected("too_large", "9 MB"))
    await bench.feed(*group(1.0, 0.0))
    assert len(bench.samples) == 1
    assert bench.processor.watermark() is None


async def test_draining_publishes_what_is_closed_and_leaves_what_is_open() -> None:
    bench = Bench(PublishFailed("away"), PublishFailed("away"))
    one, two = group(1.0, 0.0)
    await bench.feed(one)
    with pytest.raises(PublishFailed):
        await bench.processor.handle(bench.record(1, two))
    await bench.feed(group(1.0, 0.0, name="b")[0], first=2)
    await bench.processor.drain()
    await bench.processor.close()
    assert len(bench.samples) == 2
    assert bench.processor.watermark() == 2


async def test_bytes_that_are_no_trajectory_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        await Bench().processor.handle(Record(PARTITION, 0, None, b"{}"))


async def test_settings_choose_the_estimator_by_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATORS", '{"calculator": "return_to_go"}')
    bench = Bench(settings=CreditSettings())
    await bench.feed(*group(1.0, 0.0))
    assert {sample.estimator for sample in bench.samples} == {"return_to_go"}


@pytest.mark.parametrize("seconds", [float("inf"), 1e12, float("nan"), 0.0])
def test_a_deadline_that_no_calendar_holds_ends_the_start(seconds: float) -> None:
    with pytest.raises(ValidationError, match="deadline_s"):
        CreditSettings(deadline_s=seconds)


@pytest.mark.parametrize("policy", ["calculator@3", "calculator#serving"])
def test_an_estimator_for_a_version_alone_is_refused(policy: str) -> None:
    with pytest.raises(ValidationError, match="give the policy's name alone"):
        CreditSettings(estimators={policy: "rloo"})


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValidationError, match="choose one of dr_grpo, gdpo"):
        CreditSettings(estimators={"calculator": "magic"})
