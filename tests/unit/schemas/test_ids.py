"""Ids repeat for the same cause and differ for any other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_schemas import RolloutAssigned, Task, cause_id, new_id, parse_policy_ref, policy_at, policy_ref


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="\x1f", exclude_categories=["Cs"])),
        min_size=1,
        max_size=4,
    )
)
def test_the_same_causes_give_the_same_id(causes: list[str]) -> None:
    assert cause_id("sample", *causes) == cause_id("sample", *causes)
    assert cause_id("sample", *causes) != cause_id("trajectory", *causes)


def test_boundaries_between_causes_count() -> None:
    assert cause_id("x", "a", "bc") != cause_id("x", "ab", "c")


def test_derived_ids_are_version_5_and_new_ones_version_7() -> None:
    assert cause_id("rollout", "r").version == 5
    first, second = new_id(), new_id()
    assert (first.version, first < second) == (7, True)


@pytest.mark.parametrize(
    ("ref", "parsed"),
    [
        ("calculator", ("calculator", None)),
        (policy_at("calculator", 7), ("calculator", 7)),
        (policy_ref("calculator", "latest"), ("calculator", "latest")),
    ],
)
def test_policy_refs(ref: str, parsed: tuple[str, int | str | None]) -> None:
    assert parse_policy_ref(ref) == parsed


@pytest.mark.parametrize(
    "ref", ["", "@3", "calculator@", "calculator@x", "calculator@-1", "#latest", "calculator#"]
)
def test_bad_policy_refs_say_what_is_accepted(ref: str) -> None:
    with pytest.raises(ValueError, match="policy"):
        parse_policy_ref(ref)


def test_fan_out_is_repeatable_and_separate_by_tenant_and_run() -> None:
    task = Task(task_id="t", input={}, policy="p", samples=3)
    rollouts = RolloutAssigned.fan_out(task)
    assert rollouts == RolloutAssigned.fan_out(task)
    assert [r.index for r in rollouts] == [0, 1, 2]
    assert len({r.rollout_id for r in rollouts}) == 3
    assert len({r.group_id for r in rollouts}) == 1
    for other in (task.model_copy(update={"run": "other"}), task.model_copy(update={"tenant": "other"})):
        assert {r.rollout_id for r in RolloutAssigned.fan_out(other)}.isdisjoint(
            r.rollout_id for r in rollouts
        )
        assert RolloutAssigned.fan_out(other)[0].group_id != rollouts[0].group_id


def test_fan_out_needs_an_id() -> None:
    with pytest.raises(ValueError, match="task_id"):
        RolloutAssigned.fan_out(Task(input={}, policy="p"))
