"""Ranking: groups that come together on a topic of their own, and what each rollout is worth afterwards."""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_stub import JudgeStub, completion, judging, ranked
from prometheus_client import REGISTRY
from starlette.responses import PlainTextResponse

from leyden_platform.clock import ManualClock
from leyden_platform.messaging import MemoryPublisher, Partition, PublishFailed, Record
from leyden_platform.testing.rollouts import EPOCH, answer, make_step, make_task, make_trajectory
from leyden_reward.air.own_worker import OwnRule
from leyden_reward.air.shaping import Shaping
from leyden_reward.app import processors, rankings
from leyden_reward.ranking.groups import (
    Foreign,
    Gathered,
    Late,
    Opened,
    Repeated,
    RevisedLate,
    WaitingGroups,
)
from leyden_reward.ranking.processor import RankingProcessor
from leyden_reward.ranking.ranking import Ranking
from leyden_reward.ranking.routed import Routed
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_reward.rewards.judging.settings import JudgeSettings
from leyden_reward.scoring import Scoring
from leyden_reward.settings import RewardSettings
from leyden_schemas import (
    Message,
    Outcome,
    RewardSpec,
    RewardTerm,
    Topics,
    Trajectory,
    TrajectoryStatus,
    cause_id,
    encode,
)

RULER: dict[str, Any] = {"name": "ruler", "params": {"show": "output"}}
PARTITION = Partition(Topics.RANKINGS.name, 0)


class NoFunctions:
    """The user has none."""

    rules: Mapping[str, OwnRule] = {}

    async def measure(self, name: str, trajectory: Trajectory) -> Any:
        raise AssertionError(name)

    def __contains__(self, name: str) -> bool:
        return False

    async def grade(self, name: str, trajectory: Trajectory) -> Any:
        raise AssertionError(name)


def group(*outputs: str, reward: dict[str, Any] = RULER, **changes: Any) -> list[Trajectory]:
    """The rollouts of one task, as the first stage publishes them."""
    task, group_id = make_task(reward=RewardSpec(**reward), samples=len(outputs)), uuid4()
    made = []
    for index, output in enumerate(outputs):
        rollout_id = uuid4()
        made.append(
            make_trajectory(
                task=task, output=output, index=index, steps=[make_step(response=answer(""))],
                group_id=group_id, rollout_id=rollout_id,
                trajectory_id=cause_id("trajectory", rollout_id, 1), final=[], **changes,
            )
        )  # fmt: skip
    return made


def at(seconds: float) -> Any:
    """A time of the log."""
    return EPOCH + timedelta(seconds=seconds)


def test_a_group_closes_when_all_are_there_in_order_of_their_index() -> None:
    groups, (first, second, third) = WaitingGroups(), group("a", "b", "c")
    assert groups.take(third, 10, at(0)) == [Opened(10)]
    assert groups.take(first, 11, at(1)) == []
    assert groups.take(first, 12, at(1)) == [Repeated()]
    assert groups.take(second, 13, at(2)) == [Gathered(10, (first, second, third))]
    assert groups.take(second, 14, at(3)) == [Repeated()]
    assert len(groups) == 0


def test_a_group_closes_at_its_deadline_and_who_comes_later_is_late() -> None:
    groups, (first, second) = WaitingGroups(deadline_s=60), group("a", "b")
    other = group("c")[0]
    groups.take(first, 10, at(0))
    assert groups.overdue(at(59)) == []
    assert groups.take(other, 11, at(60)) == [Gathered(10, (first,)), Opened(11), Gathered(11, (other,))]
    assert groups.take(second, 12, at(61)) == [Late(second)]


def revised(trajectory: Trajectory, **changes: Any) -> Trajectory:
    """The same rollout after late feedback."""
    return trajectory.model_copy(update={"revision": 1, "trajectory_id": uuid4(), **changes})


def test_a_revision_takes_its_rollouts_place_while_the_group_waits() -> None:
    groups, (first, second) = WaitingGroups(), group("a", "b")
    again = revised(first)
    assert groups.take(first, 10, at(0)) == [Opened(10)]
    assert groups.take(again, 11, at(1)) == []
    assert groups.take(second, 12, at(2)) == [Gathered(10, (again, second))]


def test_a_revision_after_the_ranking_changes_nothing_and_opens_nothing() -> None:
    groups, (first, second) = WaitingGroups(), group("a", "b")
    groups.take(first, 10, at(0))
    groups.take(second, 11, at(1))
    assert groups.take(revised(first), 12, at(2)) == [RevisedLate()]
    restarted = WaitingGroups()
    assert restarted.take(revised(first), 12, at(2)) == [RevisedLate()]
    failed = revised(second, scored_by="outcome", outcome=Outcome.AGENT_FAILED)
    assert restarted.take(failed, 13, at(3)) == [Late(failed)]
    assert len(restarted) == 0


@pytest.mark.parametrize("change", ["tenant", "run", "task"])
def test_a_group_is_of_one_tenant_run_and_task(change: str) -> None:
    groups, (first, second) = WaitingGroups(), group("a", "b")
    other: Any = make_task(samples=2) if change == "task" else "other"
    foreign = second.model_copy(update={change: other, "trajectory_id": uuid4()})
    groups.take(first, 10, at(0))
    assert groups.take(foreign, 11, at(1)) == [Foreign(foreign)]
    assert groups.take(second, 12, at(2)) == [Gathered(10, (first, second))]


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_order_and_repetition_change_nothing(order: list[int], repeated: list[int]) -> None:
    rollouts, groups = group(*"abcdef"), WaitingGroups()
    sent = [rollouts[index] for index in [*order[:3], *repeated, *order]]
    decisions = [decision for offset, one in enumerate(sent) for decision in groups.take(one, offset, at(0))]
    gathered = [decision for decision in decisions if isinstance(decision, Gathered)]
    assert gathered == [Gathered(0, tuple(rollouts))]
    assert sum(isinstance(decision, Opened) for decision in decisions) == 1


class Flaky(MemoryPublisher):
    """Fails once before it keeps anything."""

    failures = 1

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        if self.failures:
            self.failures -= 1
            raise PublishFailed("broker away")
        await super().publish(*messages, topic=topic)


class Topical(MemoryPublisher):
    """Remembers the topics that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: list[str | None] = []

    async def publish(self, *messages: Message, topic: str | None = None) -> None:
        self.topics.append(topic)
        await super().publish(*messages, topic=topic)


class Bench:
    """A processor in front of a judge."""

    def __init__(self, stub: JudgeStub, publisher: MemoryPublisher | None = None, **settings: Any) -> None:
        self.publisher, self.clock = publisher or MemoryPublisher(), ManualClock(EPOCH)
        self.client = JudgeClient(JudgeSettings(url=stub.url, deadline_s=20, **settings), first_wait_s=0.01)
        scoring = Scoring(Grader(NoFunctions(), ranks_later=True), Shaping(cap=0.25))
        self.processor = RankingProcessor(
            groups=WaitingGroups(deadline_s=60),
            ranking=Ranking(scoring, self.client, NoFunctions()),
            publisher=self.publisher,
            clock=self.clock,
        )
        self.offset = 0

    async def feed(self, *rollouts: Trajectory) -> None:
        """Hand over rollouts at the next offsets."""
        for rollout in rollouts:
            stamp = int(self.clock.now().timestamp() * 1000)
            record = Record(PARTITION, self.offset, None, encode(rollout), {}, stamp)
            self.offset += 1
            await self.processor.handle(record)

    async def settled(self) -> dict[UUID, Trajectory]:
        """What is published, once nothing is under way."""
        await self.processor.drain()
        await self.client.close()
        return {one.rollout_id: one for one in self.publisher.published if isinstance(one, Trajectory)}


@pytest.fixture
async def stub() -> AsyncIterator[JudgeStub]:
    """A judge that likes long outputs."""
    async with judging(ranked(lambda material: len(material.removeprefix("OUTPUT:\n")) / 10)) as running:
        yield running


async def test_a_group_is_ranked_and_published_under_its_own_topic(stub: JudgeStub) -> None:
    bench, rollouts = Bench(stub), group("a", "aaa")
    signal = RewardTerm(name="signal.thumb", value=1.0, weight=0.5)
    rollouts[0] = rollouts[0].model_copy(update={"final": [signal]})
    await bench.feed(rollouts[0])
    assert bench.processor.watermark() == 0
    await bench.feed(rollouts[1])
    found = await bench.settled()
    first, second = (found[rollout.rollout_id] for rollout in rollouts)
    assert [(term.name, term.weighted) for term in first.final] == [("reward", 0.1), ("signal.thumb", 0.5)]
    assert (second.reward, second.final[0].feedback) == (0.3, second.final[0].feedback)
    assert second.scored_by.startswith("ruler:judge#")
    assert [term.name for term in first.steps[0].terms] == ["empty_output"]
    assert bench.processor.watermark() is None
    assert len(stub.bodies) == 1


async def test_a_ranking_may_be_a_part_of_a_composition(stub: JudgeStub) -> None:
    parts = [{"name": "exact_match"}, RULER | {"weight": 2}]
    bench, rollouts = Bench(stub), group("4", "four", reward={"name": "weighted", "params": {"of": parts}})
    await bench.feed(*rollouts)
    found = await bench.settled()
    assert [found[rollout.rollout_id].reward for rollout in rollouts] == [
        pytest.approx(1 + 0.2),
        pytest.approx(0 + 0.8),
    ]


FEEDBACK: dict[str, Any] = {"name": "feedback", "label": "fb", "weight": 0.1}


async def test_feedback_counts_beside_a_ranking_and_too_late_it_takes_nothing_away(stub: JudgeStub) -> None:
    both = {"name": "weighted", "params": {"of": [RULER, FEEDBACK]}}
    bench, rollouts = Bench(stub), group("a", "aaa", reward=both)
    thumb = RewardTerm(name="signal.thumb", value=1.0, weight=0.0)
    rollouts = [one.model_copy(update={"final": [thumb]}) for one in rollouts]
    before = REGISTRY.get_sample_value("leyden_reward_rankings_total", {"outcome": "revised_late"}) or 0.0
    await bench.feed(*rollouts)
    await bench.feed(revised(rollouts[0], final=[thumb, thumb]))
    found = await bench.settled()
    assert [found[one.rollout_id].reward for one in rollouts] == [
        pytest.approx(0.1 + 0.1),
        pytest.approx(0.3 + 0.1),
    ]
    assert len(bench.publisher.published) == 2
    assert {one.revision for one in found.values()} == {0}
    after = REGISTRY.get_sample_value("leyden_reward_rankings_total", {"outcome": "revised_late"})
    assert after == before + 1
    assert bench.processor.watermark() is None


async def test_failures_and_exclusions_stay_as_they_are_and_are_not_shown(stub: JudgeStub) -> None:
    bench, (right, failed, lost) = Bench(stub), group("a", "b", "c")
    outcome = {"final": [RewardTerm(name="outcome", value=-1.0)], "scored_by": "outcome"}
    failed = failed.model_copy(update={"outcome": Outcome.AGENT_FAILED, **outcome})
    lost = lost.model_copy(update={"status": TrajectoryStatus.EXCLUDED, "excluded_reason": "deadline"})
    await bench.feed(right, failed, lost)
    found = await bench.settled()
    assert [found[one.rollout_id].reward for one in (right, failed)] == [0.1, -1.0]
    assert found[lost.rollout_id].excluded_reason == "deadline"
    assert stub.bodies[0]["messages"][1]["content"].count("MATERIAL, agent") == 1


async def test_at_the_deadline_those_are_ranked_that_came_and_a_late_one_is_excluded(stub: JudgeStub) -> None:
    bench, (first, second, late) = Bench(stub), group("a", "aa", "aaa")
    await bench.feed(first, second)
    bench.clock.advance(61)
    await bench.processor.tick()
    await bench.feed(late)
    found = await bench.settled()
    assert [found[one.rollout_id].reward for one in (first, second)] == [0.1, 0.2]
    assert found[late.rollout_id].excluded_reason == "ranking_late"
    assert bench.processor.watermark() is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _prompt: PlainTextResponse("down", 503), "judge_unavailable"),
        (lambda _prompt: completion("they are all great"), "judge_malformed"),
    ],
)
async def test_a_judge_that_fails_excludes_the_group(answer: Callable[[str], Any], reason: str) -> None:
    async with judging(answer) as stub:
        bench, rollouts = Bench(stub, attempts=1), group("a", "b")
        await bench.feed(*rollouts)
        found = await bench.settled()
    assert {found[one.rollout_id].excluded_reason for one in rollouts} == {reason}


async def test_a_broker_that_is_away_delays_and_loses_nothing(stub: JudgeStub) -> None:
    bench, rollouts = Bench(stub, Flaky()), group("a", "b")
    await bench.feed(*rollouts)
    assert len(await bench.settled()) == 2


async def test_only_rollouts_that_wait_are_sent_aside() -> None:
    publisher = Topical()
    client = JudgeClient(JudgeSettings(url="http://nowhere"))
    scoring = Scoring(Grader(NoFunctions(), ranks_later=True), Shaping(cap=0.25))
    routed = Routed(publisher, Ranking(scoring, client, NoFunctions()))
    (waiting,), (plain,) = group("a"), group("b", reward={"name": "exact_match"})
    await routed.publish(waiting, plain)
    assert publisher.topics == [Topics.RANKINGS.name, None]


def test_the_service_ranks_where_it_has_a_judge() -> None:
    clock, publisher = ManualClock(EPOCH), MemoryPublisher()
    settings = RewardSettings(judge=JudgeSettings(url="http://nowhere"))
    client = JudgeClient(settings.judge)
    assert rankings(settings, NoFunctions(), publisher, clock, client)(PARTITION).watermark() is None
    assert processors(settings, NoFunctions(), publisher, clock, judge=client)(PARTITION).watermark() is None
