"""When a group is complete, what closes it otherwise, and who is not let in."""

from datetime import timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from leyden_credit.groups import ClosedGroup, Decision, Drop, Dropped, Groups, Kept, Opened
from leyden_platform.testing.rollouts import EPOCH, make_task, make_trajectory
from leyden_schemas import Split, Trajectory, TrajectoryStatus


def members(samples: int, group: int = 7) -> list[Trajectory]:
    """All trajectories of one task."""
    task = make_task(samples=samples)
    return [make_trajectory(task=task, index=index, group_id=UUID(int=group)) for index in range(samples)]


def take(groups: Groups, *trajectories: Trajectory) -> list[Decision]:
    """Feed trajectories at offsets 0, 1, 2 …"""
    return [
        decision
        for offset, trajectory in enumerate(trajectories)
        for decision in groups.take(trajectory, offset, EPOCH)
    ]


def test_a_group_closes_when_all_have_arrived_in_any_order() -> None:
    one, two, three = members(3)
    *before, closed = take(Groups(), three, one, two)
    assert before == [Opened(0), Kept(), Kept()]
    assert isinstance(closed, ClosedGroup)
    assert (closed.offset, closed.complete) == (0, True)
    assert [trajectory.index for trajectory in closed.trajectories] == [0, 1, 2]


def test_excluded_trajectories_complete_a_group() -> None:
    one, two = members(2)
    lost = two.model_copy(update={"status": TrajectoryStatus.EXCLUDED})
    closed = take(Groups(), one, lost)[-1]
    assert isinstance(closed, ClosedGroup)
    assert closed.complete


def test_a_task_of_one_sample_closes_at_once() -> None:
    opened, closed = take(Groups(), *members(1))
    assert opened == Opened(0)
    assert isinstance(closed, ClosedGroup)


def test_different_tasks_never_share_a_group() -> None:
    first, second = members(2, group=1), members(2, group=2)
    assert take(Groups(), first[0], second[0]) == [Opened(0), Kept(), Opened(1), Kept()]


def test_a_rollout_counts_once() -> None:
    one, _ = members(2)
    again = one.model_copy(update={"attempt": 2, "trajectory_id": uuid4()})
    assert take(Groups(), one, one, again)[2:] == [Dropped(Drop.DUPLICATE), Dropped(Drop.DUPLICATE)]


def test_evaluations_are_left_out() -> None:
    assert take(Groups(), make_trajectory(task=make_task(split=Split.EVAL))) == [Dropped(Drop.EVAL)]


def test_the_deadline_closes_with_what_arrived_and_the_rest_is_late() -> None:
    groups = Groups(deadline_s=60)
    one, two, three = members(3)
    take(groups, one, two)
    assert groups.overdue(EPOCH + timedelta(seconds=59)) == []
    (closed,) = groups.overdue(EPOCH + timedelta(seconds=60))
    assert not closed.complete
    assert len(closed.trajectories) == 2
    assert take(groups, three) == [Dropped(Drop.LATE)]
    assert len(groups) == 0


def test_open_groups_do_not_hold_the_conversation() -> None:
    (only,) = members(1)
    spoken = only.steps[0].model_copy(update={"request": {"messages": ["…"]}, "response": {"choices": []}})
    closed = take(Groups(), only.model_copy(update={"steps": [spoken]}))[-1]
    assert isinstance(closed, ClosedGroup)
    assert (closed.trajectories[0].steps[0].request, closed.trajectories[0].steps[0].response) == ({}, None)


@given(st.data())
def test_any_order_and_repetition_closes_a_group_once(data: st.DataObject) -> None:
    pool = members(3)
    arrivals = data.draw(st.lists(st.sampled_from(pool), max_size=12))
    decisions = take(Groups(), *arrivals)
    closed = [decision for decision in decisions if isinstance(decision, ClosedGroup)]
    assert len(closed) == (len({trajectory.rollout_id for trajectory in arrivals}) == 3)
