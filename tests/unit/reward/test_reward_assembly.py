"""Which events make a rollout, which are dropped and why, and when it is over."""

import math
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import EPOCH, Rollout, make_task
from leyden_platform.transcript import transcript
from leyden_platform.transcript.packing import unpack
from leyden_reward.assembly import Assembly, Closed, Decision, Drop, Dropped, Kept, Opened
from leyden_schemas import EventMessage, Limits, Outcome, TrajectoryStatus, cause_id


def take(assembly: Assembly, *events: EventMessage) -> list[Decision]:
    """Feed events at offsets 0, 1, 2 …"""
    return [
        decision for offset, event in enumerate(events) for decision in assembly.take(event, offset, EPOCH)
    ]


def closed(decisions: list[Decision]) -> Closed:
    """The one closure among the decisions."""
    (found,) = [decision for decision in decisions if isinstance(decision, Closed)]
    return found


def test_a_rollout_becomes_a_trajectory_with_its_steps_in_log_order() -> None:
    rollout = Rollout(index=5)
    first, second = rollout.completion(), rollout.completion(agent="helper", version=4)

    decisions = take(Assembly(), rollout.started(), second, first, rollout.finished("4"))

    assert decisions[:3] == [Opened(0), Kept(), Kept()]
    trajectory = closed(decisions).trajectory
    assert [step.completion_id for step in trajectory.steps] == [second.completion_id, first.completion_id]
    assert trajectory.steps[0].agent == "helper"
    assert trajectory.steps[0].version == 4
    assert trajectory.steps[1].token_ids == [3, 4]
    assert trajectory.trajectory_id == cause_id("trajectory", rollout.rollout_id, 1)
    assert (trajectory.group_id, trajectory.index, trajectory.output) == (rollout.group_id, 5, "4")
    assert trajectory.status is TrajectoryStatus.SCORED
    assert trajectory.final == []


def test_a_trajectory_names_the_queue_that_its_task_came_through() -> None:
    rollout = Rollout()
    started = rollout.started().model_copy(update={"queue": "gpu"})
    decisions = take(Assembly(), started, rollout.completion(), rollout.finished("4"))
    assert closed(decisions).trajectory.queue == "gpu"


def test_a_higher_attempt_supersedes_what_came_before() -> None:
    rollout = Rollout()
    old, kept = rollout.completion(), rollout.completion(attempt=2)

    decisions = take(
        Assembly(),
        rollout.started(),
        old,
        rollout.started(2),
        kept,
        rollout.completion(),
        rollout.finished(attempt=2),
    )

    assert Dropped(Drop.SUPERSEDED, 1) in decisions
    assert Dropped(Drop.STALE_ATTEMPT) in decisions
    trajectory = closed(decisions).trajectory
    assert [step.completion_id for step in trajectory.steps] == [kept.completion_id]
    assert trajectory.attempt == 2
    assert trajectory.trajectory_id == cause_id("trajectory", rollout.rollout_id, 2)


def test_a_finish_that_a_retry_follows_keeps_the_rollout_open() -> None:
    rollout, assembly = Rollout(), Assembly()
    failed = rollout.finished(outcome=Outcome.INFRASTRUCTURE_FAILED, final=False)

    assert take(assembly, rollout.started(), failed) == [Opened(0), Kept()]
    assert take(assembly, rollout.completion()) == [Dropped(Drop.STALE_ATTEMPT)]
    assert closed(take(assembly, rollout.started(2), rollout.finished(attempt=2))).trajectory.attempt == 2


def test_a_stale_attempt_cannot_end_the_rollout() -> None:
    rollout = Rollout()
    decisions = take(Assembly(), rollout.started(2), rollout.finished(attempt=1))
    assert decisions == [Opened(0), Dropped(Drop.STALE_ATTEMPT)]


def test_an_attempt_that_never_started_can_end_it() -> None:
    rollout = Rollout()
    last = rollout.finished(attempt=3, outcome=Outcome.INFRASTRUCTURE_FAILED)
    trajectory = closed(take(Assembly(), rollout.started(), rollout.completion(), last)).trajectory
    assert (trajectory.attempt, trajectory.steps) == (3, [])
    assert trajectory.excluded_reason == "infrastructure_failed"


def test_duplicates_are_recognised_by_event_and_by_completion() -> None:
    rollout = Rollout()
    started, completion = rollout.started(), rollout.completion()
    again = completion.model_copy(update={"event_id": uuid4()})

    decisions = take(Assembly(), started, started, completion, completion, again, rollout.finished())

    assert decisions.count(Dropped(Drop.DUPLICATE)) == 3
    assert len(closed(decisions).trajectory.steps) == 1


def test_a_second_start_of_one_attempt_is_counted_and_the_first_stands() -> None:
    rollout = Rollout()
    start, again, other, third = rollout.started(), rollout.started(), rollout.started(), rollout.started(3)
    other = other.model_copy(update={"task": make_task(reference="5")})
    completion = rollout.completion(attempt=2)
    decisions = take(
        Assembly(), start, again, other, completion, rollout.started(2), rollout.started(2), third
    )
    assert decisions == [
        Opened(0),
        Dropped(Drop.DUPLICATE),
        Dropped(Drop.CONTRADICTORY),
        Kept(),
        Kept(),
        Dropped(Drop.DUPLICATE),
        Dropped(Drop.SUPERSEDED),
        Kept(),
    ]


def test_a_repeated_completion_is_compared_with_its_step_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a long rollout, sent twice, looking at all steps for each would keep everybody waiting."""
    rollout, assembly = Rollout(), Assembly()
    completions = [rollout.completion() for _ in range(40)]
    take(assembly, rollout.started(), *completions)
    read: list[bytes] = []

    def unpacked(blob: bytes) -> object:
        read.append(blob)
        return unpack(blob)

    monkeypatch.setattr(transcript, "unpack", unpacked)
    odd = completions[-1].model_copy(update={"token_ids": [9, 9]})
    decisions = take(assembly, *completions, odd)
    assert decisions == [Dropped(Drop.DUPLICATE)] * 40 + [Dropped(Drop.CONTRADICTORY)]
    assert len(read) == 41


def test_equal_calls_are_not_duplicates() -> None:
    rollout = Rollout()
    events = [rollout.completion() for _ in range(4)]
    assert len(closed(take(Assembly(), rollout.started(), *events, rollout.finished())).trajectory.steps) == 4


def test_events_without_a_start_are_dropped() -> None:
    rollout = Rollout()
    signal = rollout.signal(name="latency")
    decisions = take(Assembly(), rollout.completion(), signal, rollout.finished())
    assert decisions == [Dropped(Drop.UNKNOWN_ROLLOUT)] * 3


def test_nothing_changes_a_closed_rollout() -> None:
    rollout, assembly = Rollout(), Assembly()
    take(assembly, rollout.started(), rollout.finished())
    assert (
        take(assembly, rollout.completion(), rollout.signal(), rollout.finished("5"), rollout.started(2))
        == [Dropped(Drop.LATE)] * 4
    )
    assert len(assembly) == 0


def test_only_so_many_closed_rollouts_are_remembered() -> None:
    assembly = Assembly(remember=2)
    rollouts = [Rollout() for _ in range(3)]
    for rollout in rollouts:
        take(assembly, rollout.started(), rollout.finished())
    reasons = [take(assembly, rollout.completion())[0] for rollout in rollouts]
    assert reasons == [Dropped(Drop.UNKNOWN_ROLLOUT), Dropped(Drop.LATE), Dropped(Drop.LATE)]


def test_the_deadline_counts_every_attempt_and_the_grace() -> None:
    rollout = Rollout(task=make_task(limits=Limits(timeout_s=10, max_attempts=3)))
    assembly = Assembly(grace_s=5)
    take(assembly, rollout.started(), rollout.completion())

    assert assembly.overdue(EPOCH + timedelta(seconds=34.9)) == []
    (given_up,) = assembly.overdue(EPOCH + timedelta(seconds=35))

    assert given_up.trajectory.status is TrajectoryStatus.EXCLUDED
    assert given_up.trajectory.excluded_reason == "deadline"
    assert given_up.trajectory.finished_at == EPOCH + timedelta(seconds=35)
    assert len(given_up.trajectory.steps) == 1
    assert take(assembly, rollout.finished()) == [Dropped(Drop.LATE)]


@pytest.mark.parametrize("outcome", [Outcome.AGENT_FAILED, Outcome.TIMED_OUT])
def test_the_agents_own_failure_is_not_excluded(outcome: Outcome) -> None:
    rollout = Rollout()
    trajectory = closed(
        take(Assembly(), rollout.started(), rollout.finished(None, outcome=outcome))
    ).trajectory
    assert trajectory.status is TrajectoryStatus.SCORED


def test_signals_become_terms_of_the_step_or_of_the_rollout() -> None:
    rollout = Rollout()
    completion = rollout.completion()
    decisions = take(
        Assembly(signal_weights={"thumb": 0.5}),
        rollout.started(),
        completion,
        rollout.signal(1.0, completion_id=completion.completion_id),
        rollout.signal(-1.0, text="too slow"),
        rollout.signal(9.0, name="other"),
        rollout.signal(math.nan),
        rollout.signal(1.0, completion_id=uuid4()),
        rollout.finished(),
    )
    (on_step,) = closed(decisions).trajectory.steps[0].terms
    thumb, other = closed(decisions).signals
    assert (on_step.name, on_step.weighted) == ("signal.thumb", 0.5)
    assert (thumb.weighted, thumb.feedback) == (-0.5, "too slow")
    assert (other.value, other.weighted) == (9.0, 0.0)
    assert Dropped(Drop.SIGNAL_NOT_FINITE) in decisions
    assert Dropped(Drop.UNKNOWN_COMPLETION) in decisions


@pytest.mark.parametrize(("status", "reason"), [("error", "error"), ("cancelled", "cancelled")])
def test_a_completion_the_caller_did_not_get_is_a_step_but_not_trainable(status: str, reason: str) -> None:
    rollout = Rollout()
    cut_off = rollout.completion(status=status, response=None)
    decisions = take(Assembly(), rollout.started(), cut_off, rollout.finished())
    assert closed(decisions).trajectory.steps[0].untrainable == reason


@given(st.data())
def test_any_order_and_repetition_closes_every_rollout_at_most_once(data: st.DataObject) -> None:
    rollouts = [Rollout() for _ in range(2)]
    pool = [
        event
        for rollout in rollouts
        for attempt in (1, 2)
        for event in (
            rollout.started(attempt),
            rollout.completion(attempt),
            rollout.finished(attempt=attempt),
        )
    ]
    events = data.draw(st.lists(st.sampled_from(pool), max_size=30))
    decisions = take(Assembly(), *events)
    ends = [decision.trajectory for decision in decisions if isinstance(decision, Closed)]
    assert len({trajectory.rollout_id for trajectory in ends}) == len(ends)
    for trajectory in ends:
        ids = [step.completion_id for step in trajectory.steps]
        assert len(set(ids)) == len(ids) <= 1
