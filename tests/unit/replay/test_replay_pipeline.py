"""Reward and credit in the time of the log: what ends where, and that nothing else decides about it."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_stub import judging, ranked
from memory_log import MemoryLog, at

from leyden_credit.app import processors as credit_processors
from leyden_credit.settings import CreditSettings
from leyden_platform.settings import CatalogueSettings, KafkaSettings
from leyden_platform.testing.rollouts import Rollout, make_task
from leyden_replay import pipeline
from leyden_replay.definitions import Definitions
from leyden_replay.edges import Edge, LogEdge, Offsets, OnlyOffset
from leyden_replay.merge import merged
from leyden_replay.pipeline import Chunk, Pipeline, Result
from leyden_replay.replay import Request
from leyden_replay.roster import RewardChange, Roster, Selection
from leyden_replay.stretch import plan
from leyden_reward.app import processors as reward_processors
from leyden_reward.app import rankings
from leyden_reward.rewards.judging.client import JudgeClient
from leyden_reward.rewards.judging.settings import JudgeSettings
from leyden_reward.rewards.verdict import Graded, Verdict
from leyden_reward.rewards.workers import RewardWorkers
from leyden_reward.settings import RewardSettings
from leyden_schemas import EventMessage, Limits, RewardSpec, RewardTerm, TrainingSample, Trajectory, decode

Told = TypeVar("Told", Trajectory, TrainingSample)

NOW_S = 100_000
SHORT = Limits(timeout_s=50, max_attempts=1)
NOW = at(NOW_S)
REWARD = RewardSettings(grace_s=10.0)
CREDIT = CreditSettings(deadline_s=100.0)


class Slow:
    """Functions of the user's that end in the opposite order of their calls."""

    def __init__(self) -> None:
        self.called = 0

    def __contains__(self, name: object) -> bool:
        return name == "slow"

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        """The later called, the sooner done."""
        self.called += 1
        for _ in range(1_000 // self.called):
            await asyncio.sleep(0)
        return Graded((RewardTerm(name="reward", value=float(trajectory.index)),), "slow")


@dataclass
class Found:
    """What a replay found, in order."""

    trajectories: list[Trajectory]
    samples: list[TrainingSample]
    before: list[Trajectory]
    chunks: list[Chunk]
    cut_off: tuple[int, int]

    @property
    def sampled(self) -> list[UUID]:
        """Rollouts by sample."""
        return [sample.rollout_id for sample in self.samples]


async def go_over(
    log: MemoryLog,
    since: Edge = LogEdge.BEGINNING,
    until: Edge = LogEdge.END,
    *,
    lead_in: float = 1_000.0,
    workers: Any = None,
    roster: Roster | None = None,
    judge: JudgeClient | None = None,
) -> Found:
    """Replay a log with the services' own processors."""
    stretch = await plan(log, since, until, lead_in=timedelta(seconds=lead_in), now=NOW)
    roster = roster or Roster("again", Selection(), None)
    workers = workers or RewardWorkers(CatalogueSettings(), count=1)
    asked = judge or JudgeClient(JudgeSettings())
    reward = REWARD.model_copy(update={"judge": asked.settings})
    line = Pipeline(
        lambda publisher, clock: reward_processors(reward, workers, publisher, clock, judge=asked),
        lambda publisher, clock: credit_processors(CREDIT, publisher, clock),
        stretch,
        max_message_bytes=1_000_000,
        ranking=(lambda publisher, clock: rankings(reward, workers, publisher, clock, asked))
        if judge
        else None,
    )
    request = Request("again", KafkaSettings(), since, until, Definitions(reward, CREDIT, None), NOW)
    chunks = [
        chunk
        async for chunk in line.run(
            merged(log, stretch, latest=NOW),
            lambda record, counts: roster.take(record, counts=counts),
            request.ends,
        )
    ]
    await line.close()
    told = [result for chunk in chunks for result in chunk.trajectories]
    counted = messages(result for result in told if result.cause.counts)
    before = messages(result for result in told if not result.cause.counts)
    samples = messages(result for chunk in chunks for result in chunk.samples)
    ended = {trajectory.rollout_id for trajectory in (*counted, *before)}
    return Found(counted, samples, before, chunks, roster.cut_off(ended))


def messages(results: Iterator[Result]) -> list[Any]:
    """What results hold."""
    return [decode(result.topic, result.value) for result in results]


def group(size: int = 2, **changes: Any) -> list[Rollout]:
    """The rollouts of a new task."""
    task, group_id = (
        make_task(**({"samples": size, "limits": SHORT} | changes)),
        uuid4(),
    )
    return [Rollout(task=task, group_id=group_id, index=index) for index in range(size)]


def live(log: MemoryLog, rollout: Rollout, begins: float, ends: float, partition: int = 0) -> None:
    """A rollout of one completion, right when it is the first of its group."""
    log.add(begins, rollout.started(), partition)
    log.add((begins + ends) / 2, rollout.completion(), partition)
    log.add(ends, rollout.finished("4" if rollout.index == 0 else "5"), partition)


async def test_events_become_trajectories_and_samples_in_order() -> None:
    log = MemoryLog(2)
    first, second = group(), group()
    for shift, (one, two) in ((0, first), (5, second)):
        live(log, one, shift, shift + 10, 0)
        live(log, two, shift, shift + 20, 1)
    found = await go_over(log)
    order = [first[0], second[0], first[1], second[1]]
    assert [t.rollout_id for t in found.trajectories] == [rollout.rollout_id for rollout in order]
    assert found.sampled == [rollout.rollout_id for rollout in (*first, *second)]
    assert found.cut_off == (0, 0)


async def test_how_long_scoring_takes_changes_nothing() -> None:
    log, members = MemoryLog(2), group(4, reward=RewardSpec(name="slow"))
    for index, rollout in enumerate(members):
        live(log, rollout, index, 10 + index, index % 2)
    slow = Slow()
    found = await go_over(log, workers=slow)
    assert slow.called == 4
    assert [t.rollout_id for t in found.trajectories] == [rollout.rollout_id for rollout in members]


async def test_what_began_before_what_is_read_and_what_did_not_end_is_counted_and_not_scored() -> None:
    log = MemoryLog()
    early, late, whole = Rollout(), Rollout(), Rollout()
    live(log, early, 0, 60)
    live(log, whole, 52, 70)
    log.add(80, late.started())
    log.add(90, late.completion())
    found = await go_over(log, at(50), at(95), lead_in=0.0)
    assert [t.rollout_id for t in found.trajectories] == [whole.rollout_id]
    assert found.cut_off == (1, 1)


async def test_a_lead_in_makes_rollouts_whole_that_end_in_the_stretch_and_no_others_count() -> None:
    log = MemoryLog()
    before, across = Rollout(), Rollout()
    live(log, before, 10, 40)
    live(log, across, 30, 60)
    found = await go_over(log, at(50), at(95))
    assert [t.rollout_id for t in found.trajectories] == [across.rollout_id]
    assert [t.rollout_id for t in found.before] == [before.rollout_id]
    assert found.cut_off == (0, 0)


async def test_a_group_belongs_to_the_stretch_in_which_its_last_rollout_ends() -> None:
    log, members = MemoryLog(), group()
    live(log, members[0], 10, 40)
    live(log, members[1], 10, 60)
    ids = [rollout.rollout_id for rollout in members]
    assert (await go_over(log, at(50), at(95))).sampled == ids
    assert (await go_over(log, at(0), at(50))).sampled == []


async def test_a_group_is_closed_at_its_deadline_by_the_time_of_the_log() -> None:
    log, members = MemoryLog(), group(3)
    for rollout in members[:2]:
        live(log, rollout, 10, 40)
    assert (await go_over(log, until=at(139))).sampled == []
    assert (await go_over(log, until=at(141))).sampled == [rollout.rollout_id for rollout in members[:2]]


async def test_a_rollout_that_is_not_heard_of_is_given_up_when_the_log_is_past_its_deadline() -> None:
    log, (silent, other) = (
        MemoryLog(2),
        [Rollout(task=make_task(limits=Limits(timeout_s=50))) for _ in range(2)],
    )
    log.add(0, silent.started(), 0)
    live(log, other, 100, 200, 1)
    (scored, given_up) = (await go_over(log)).trajectories
    assert (scored.rollout_id, scored.status) == (
        silent.rollout_id,
        "excluded",
    ) or given_up.status == "excluded"
    excluded = next(t for t in (scored, given_up) if t.rollout_id == silent.rollout_id)
    assert (excluded.excluded_reason, excluded.finished_at) == ("deadline", at(50 * 3 + 10))


@pytest.mark.parametrize("until", [OnlyOffset(5), at(65), at(90)])
async def test_what_an_edge_cuts_is_not_given_up(until: Edge) -> None:
    """It ends behind the edge, and belongs to the stretch that follows."""
    log, (first, second) = MemoryLog(), group()
    live(log, first, 0, 50)
    live(log, second, 40, 100)
    found = await go_over(log, until=until)
    assert [t.rollout_id for t in found.trajectories] == [first.rollout_id]
    assert (found.samples, found.cut_off) == ([], (0, 1))
    after = await go_over(log, until)
    assert [t.rollout_id for t in after.trajectories] == [second.rollout_id]
    assert len(after.samples) == 2


async def test_time_that_passes_on_one_partition_gives_up_nothing_that_is_cut_off_on_another() -> None:
    log, (cut, *others) = MemoryLog(2), [Rollout(task=make_task(limits=SHORT)) for _ in range(3)]
    live(log, cut, 0, 50, 0)
    live(log, others[0], 40, 60, 1)
    live(log, others[1], 880, 900, 1)
    border = Offsets({0: 2, 1: 6})
    found = await go_over(log, until=border)
    assert [t.rollout_id for t in found.trajectories] == [other.rollout_id for other in others]
    after = await go_over(log, border)
    assert [(t.rollout_id, t.status) for t in after.trajectories] == [(cut.rollout_id, "scored")]


async def test_a_time_that_is_to_come_passes_no_deadline() -> None:
    log, (first, second) = MemoryLog(), group()
    live(log, first, 0, 50)
    log.add(NOW_S - 20, second.started())
    found = await go_over(log, until=at(NOW_S + 10_000))
    assert [t.rollout_id for t in found.trajectories] == [first.rollout_id]
    assert found.cut_off == (0, 1)


async def test_bytes_that_are_no_event_are_counted_and_the_rest_goes_on() -> None:
    log, members = MemoryLog(), group()
    log.add(1, b"\xff not json")
    log.add(2, None)
    log.add(3, b'{"type": "rollout_started"}')
    for rollout in members:
        live(log, rollout, 10, 40)
    found = await go_over(log)
    assert sum(chunk.malformed for chunk in found.chunks) == 3
    assert len(found.samples) == 2


def busy(stories: Sequence[tuple[int, int, int]]) -> MemoryLog:
    """Groups of two with a story (begin, how much later it ends, partition) a rollout, merged by time."""
    told: list[tuple[float, int, EventMessage, int]] = []
    for number in range(0, len(stories) - 1, 2):
        for rollout, (begins, lasts, partition) in zip(group(), stories[number : number + 2], strict=True):
            events: list[EventMessage] = [
                rollout.started(),
                rollout.completion(),
                rollout.finished("4" if rollout.index else "5"),
            ]
            told += [(begins + lasts * part / 2, part, event, partition) for part, event in enumerate(events)]
    log = MemoryLog(2)
    for seconds, _, event, partition in sorted(told, key=lambda each: each[:2]):
        log.add(seconds, event, partition)
    return log


def by_rollout(found: Iterable[Told]) -> list[Told]:
    """What no record lies between is in an order of its own: deadlines that the border tells apart."""
    return sorted(found, key=lambda each: each.rollout_id)


STORIES = st.lists(
    st.tuples(st.integers(0, 300), st.integers(2, 80), st.integers(0, 1)), min_size=2, max_size=16
)


@settings(max_examples=15, deadline=None)
@given(STORIES, st.integers(1, 380))
async def test_stretches_that_follow_one_another_share_nothing_and_miss_nothing(
    stories: list[tuple[int, int, int]], border: int
) -> None:
    log = busy(stories)
    whole = await go_over(log)
    try:
        parts = [await go_over(log, at(-1), at(border)), await go_over(log, at(border))]
    except ValueError:
        return
    assert by_rollout(t for part in parts for t in part.trajectories) == by_rollout(whole.trajectories)
    assert by_rollout(sample for part in parts for sample in part.samples) == by_rollout(whole.samples)


@pytest.mark.parametrize("records", [1, 3, 7])
async def test_how_much_is_taken_at_once_changes_nothing(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = busy([(13 * index % 97, 5 + 11 * index % 40, index % 2) for index in range(16)])
    whole = await go_over(log)
    monkeypatch.setattr(pipeline, "CHUNK_RECORDS", records)
    again = await go_over(log)
    assert len(again.chunks) > len(whole.chunks)
    assert (again.trajectories, again.samples) == (whole.trajectories, whole.samples)


async def test_another_reward_takes_the_place_of_the_tasks_own() -> None:
    log, members = MemoryLog(), group()
    for rollout in members:
        live(log, rollout, 10, 40)
    change = RewardChange("numeric", {"tolerance": 5.0})
    found = await go_over(log, roster=Roster("again", Selection(), change))
    assert [t.reward for t in found.trajectories] == [1.0, 1.0]
    spec = RewardSpec(name="numeric", params={"tolerance": 5.0})
    assert all(t.task.reward == spec for t in found.trajectories)


async def test_other_tenants_runs_and_policies_are_passed_over() -> None:
    log, mine, others = MemoryLog(), group(), group(policy="other#serving")
    for rollout in (*mine, *others):
        live(log, rollout, 10, 40)
    found = await go_over(log, roster=(roster := Roster("again", Selection(policy="calculator"), None)))
    assert {t.rollout_id for t in found.trajectories} == {rollout.rollout_id for rollout in mine}
    assert (roster.passed_over, found.cut_off) == (6, (0, 0))
    for selection in (Selection(tenant="x"), Selection(run="x")):
        assert (await go_over(log, roster=Roster("again", selection, None))).trajectories == []


async def test_groups_that_a_judge_ranks_are_credited_where_their_last_rollout_ends() -> None:
    log, compared, alone = MemoryLog(2), group(3, reward=RewardSpec(name="ruler")), group()
    for rollout, ends in zip(compared, (20, 30, 60), strict=True):
        log.add(10, rollout.started(), 0)
        log.add(11, rollout.completion(), 0)
        log.add(ends, rollout.finished("#" * (rollout.index + 1)), 0)
    live(log, alone[0], 10, 40, 1)
    live(log, alone[1], 10, 50, 1)
    async with judging(ranked(lambda material: material.count("#") / 10)) as stub:
        judge = JudgeClient(JudgeSettings(url=stub.url))
        found = await go_over(log, judge=judge)
        again = await go_over(log, judge=judge)
        late = await go_over(log, at(55), judge=judge)
        await judge.close()
    rewards = {t.rollout_id: t.reward for t in found.trajectories}
    assert [rewards[rollout.rollout_id] for rollout in compared] == [0.1, 0.2, 0.3]
    ids = [rollout.rollout_id for rollout in (*alone, *compared)]
    assert [t.rollout_id for t in found.trajectories][:2] == ids[:2]
    assert {t.rollout_id for t in found.trajectories} == set(ids)
    assert found.sampled == ids
    assert len(stub.bodies) == 1
    assert (again.trajectories, again.samples) == (found.trajectories, found.samples)
    assert late.sampled == ids[2:]
