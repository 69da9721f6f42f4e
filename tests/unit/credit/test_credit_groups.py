"""When a group is complete, what closes it otherwise, and who is not let in."""

from datetime import timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from leyden_credit.groups import ClosedGroup, Decision, Drop, Dropped, Groups, Kept, Member, Opened
from leyden_credit.states import state_of
from leyden_platform.testing.rollouts import EPOCH, make_step, make_task, make_trajectory
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
    assert [member.trajectory.index for member in closed.members] == [0, 1, 2]


def test_members_are_in_one_order_even_if_they_claim_one_index() -> None:
    one, two = (member.model_copy(update={"index": 0}) for member in members(2))
    forth, back = take(Groups(), one, two)[-1], take(Groups(), two, one)[-1]
    assert isinstance(forth, ClosedGroup)
    assert isinstance(back, ClosedGroup)
    assert forth.members == back.members


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


def changed(trajectory: Trajectory, **changes: object) -> Trajectory:
    """The trajectory, of a task that differs in something."""
    task = trajectory.task.model_copy(update=changes)
    return trajectory.model_copy(update={"task": task, "rollout_id": uuid4()})


def test_what_claims_the_group_of_another_task_is_not_compared_with_it() -> None:
    one, two = members(2)
    strangers = [
        changed(one, input={"question": "3 + 3"}),
        changed(one, policy="other"),
        changed(one, samples=3),
        two.model_copy(update={"tenant": "other"}),
        two.model_copy(update={"run": "other"}),
    ]
    *decisions, closed = take(Groups(), one, *strangers, two)
    assert decisions == [Opened(0), Kept(), *[Dropped(Drop.OTHER_TASK)] * 5]
    assert isinstance(closed, ClosedGroup)
    assert [member.trajectory for member in closed.members] == [slim(one), slim(two)]


def slim(trajectory: Trajectory) -> Trajectory:
    """As groups keep it."""
    return Member.of(trajectory).trajectory


def test_policy_versions_may_mix() -> None:
    one, two = members(2)
    newer = two.model_copy(update={"steps": [make_step(version=9)]})
    assert isinstance(take(Groups(), one, newer)[-1], ClosedGroup)


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
    assert len(closed.members) == 2
    assert take(groups, three) == [Dropped(Drop.LATE)]
    assert len(groups) == 0


def test_a_trajectory_past_the_deadline_is_late_even_if_nothing_looked_before() -> None:
    groups = Groups(deadline_s=60)
    one, two = members(2)
    groups.take(one, 0, EPOCH)
    closed, dropped = groups.take(two, 1, EPOCH + timedelta(seconds=60))
    assert isinstance(closed, ClosedGroup)
    assert (len(closed.members), closed.complete) == (1, False)
    assert dropped == Dropped(Drop.LATE)


def test_any_trajectory_closes_the_groups_that_waited_long_enough() -> None:
    groups = Groups(deadline_s=60)
    for name in (1, 2, 3):
        groups.take(members(2, group=name)[0], name, EPOCH + timedelta(seconds=10 * name))
    *closed, opened, kept = groups.take(members(2, group=4)[0], 4, EPOCH + timedelta(seconds=80))
    assert [group.offset for group in closed if isinstance(group, ClosedGroup)] == [1, 2]
    assert (opened, kept) == (Opened(4), Kept())


def test_time_that_goes_back_neither_closes_nor_reopens() -> None:
    groups = Groups(deadline_s=60)
    groups.take(members(2, group=1)[0], 0, EPOCH + timedelta(seconds=30))
    groups.take(members(2, group=2)[0], 1, EPOCH)
    assert groups.overdue(EPOCH + timedelta(seconds=89)) == []
    assert [closed.offset for closed in groups.overdue(EPOCH + timedelta(seconds=90))] == [0, 1]


def test_one_of_64_waits_for_the_deadline() -> None:
    groups = Groups(deadline_s=60)
    take(groups, members(64)[17])
    (closed,) = groups.overdue(EPOCH + timedelta(seconds=60))
    assert (len(closed.members), closed.complete, len(groups)) == (1, False, 0)


def test_a_group_that_is_forgotten_begins_anew() -> None:
    groups = Groups(deadline_s=60, remember=1)
    one, two = members(2, group=1)
    take(groups, one)
    groups.overdue(EPOCH + timedelta(seconds=60))
    take(groups, *members(1, group=2))
    assert take(groups, two) == [Opened(0), Kept()]


def test_open_groups_do_not_hold_the_conversation() -> None:
    (only,) = members(1)
    spoken = only.steps[0].model_copy(update={"request": {"messages": ["…"]}, "response": {"choices": []}})
    closed = take(Groups(), only.model_copy(update={"steps": [spoken]}))[-1]
    assert isinstance(closed, ClosedGroup)
    (member,) = closed.members
    assert (member.trajectory.steps[0].request, member.trajectory.steps[0].response) == ({}, None)
    assert member.states == (state_of(spoken),)


POOL = members(3)
PAIR = [*members(3, group=1), *members(3, group=2)]


@given(
    arrivals=st.lists(st.tuples(st.sampled_from(range(6)), st.integers(0, 30)), max_size=20),
    ticks=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_what_closes_with_whom_does_not_depend_on_when_somebody_looked(
    arrivals: list[tuple[int, int]], ticks: list[bool]
) -> None:
    watched, unwatched, now = Groups(deadline_s=60), Groups(deadline_s=60), EPOCH
    seen: list[ClosedGroup] = []
    expected: list[Decision] = []
    for offset, ((which, later), tick) in enumerate(zip(arrivals, ticks, strict=False)):
        now += timedelta(seconds=later)
        if tick:
            seen += watched.overdue(now)
        decisions = watched.take(PAIR[which], offset, now)
        seen += [decision for decision in decisions if isinstance(decision, ClosedGroup)]
        expected += unwatched.take(PAIR[which], offset, now)
    assert seen == [decision for decision in expected if isinstance(decision, ClosedGroup)]


@given(arrivals=st.lists(st.sampled_from(POOL), max_size=12))
def test_any_order_and_repetition_closes_a_group_once(arrivals: list[Trajectory]) -> None:
    decisions = take(Groups(), *arrivals)
    closed = [decision for decision in decisions if isinstance(decision, ClosedGroup)]
    assert len(closed) == (len({trajectory.rollout_id for trajectory in arrivals}) == 3)


def revised(trajectory: Trajectory, revision: int, **changes: object) -> Trajectory:
    """A later word on the same rollout."""
    return trajectory.model_copy(update={"revision": revision, "trajectory_id": uuid4(), **changes})


def test_a_revision_takes_the_place_of_an_older_one_while_the_group_is_open() -> None:
    one, two, three = members(3)
    again, latest = revised(one, 1), revised(one, 2)
    *before, closed = take(Groups(), one, two, latest, latest, again, three)
    assert before == [
        Opened(0),
        Kept(),
        Kept(),
        Dropped(Drop.SUPERSEDED),
        Dropped(Drop.DUPLICATE),
        Dropped(Drop.SUPERSEDED),
    ]
    assert isinstance(closed, ClosedGroup)
    assert [member.trajectory.revision for member in closed.members] == [2, 0, 0]


def test_a_revision_of_another_task_does_not_replace_anything() -> None:
    one, _two = members(2)
    stranger = revised(one, 1, task=make_task(samples=2, reference="5"))
    assert take(Groups(), one, stranger)[-1] == Dropped(Drop.OTHER_TASK)


def test_a_revision_of_a_closed_group_is_too_late_to_train_on() -> None:
    one, two = members(2)
    decisions = take(Groups(), one, two, revised(one, 1), one)
    assert decisions[-2:] == [Dropped(Drop.REVISED_LATE), Dropped(Drop.LATE)]


def test_the_first_usable_revision_of_a_rollout_that_is_alone_is_not_too_late() -> None:
    (one,) = members(1)
    silent = one.model_copy(update={"status": TrajectoryStatus.EXCLUDED, "excluded_reason": "no_feedback"})
    scored = revised(one, 1)
    decisions = take(Groups(), silent, silent, scored, scored, revised(one, 2))
    assert decisions[2] == Dropped(Drop.LATE)
    assert isinstance(decisions[4], ClosedGroup)
    assert decisions[4].members[0].trajectory.revision == 1
    assert decisions[5:] == [Dropped(Drop.REVISED_LATE)] * 2
