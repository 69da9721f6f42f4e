"""Which tasks are accepted, and what their ids are."""

import pytest

from leyden_platform.messaging import Rejected
from leyden_runner.intake import Known, check, check_size, identified, unknown_policy
from leyden_schemas import RewardSpec, Task
from leyden_schemas.rewards import LIBRARY

REWARDS = f"known rewards: {', '.join(sorted([*LIBRARY, 'mine']))} (LEYDEN_CATALOGUE_REWARDS)"
KNOWN = Known(agents=["default", "coder"], rewards=["mine"])


def task(**fields: object) -> Task:
    return Task.model_validate({"input": {}, "policy": "p", **fields})


def test_a_missing_id_is_derived_from_where_the_message_lies() -> None:
    first, again = (identified(task(), "leyden.tasks.v1[0]@5", 1_000) for _ in range(2))
    assert first.task_id == again.task_id
    assert first.task_id != identified(task(), "leyden.tasks.v1[0]@6", 1_000).task_id
    assert first.task_id != identified(task(), "leyden.tasks.v1[0]@5", 2_000).task_id
    assert identified(task(task_id="mine"), "leyden.tasks.v1[0]@5", 1_000).task_id == "mine"


def test_known_names_pass() -> None:
    check(task(agent="coder", reward=RewardSpec(name="mine")), KNOWN)


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        (task(agent="x"), "unknown_agent", "agent 'x' is not known; known agents: coder, default"),
        (
            task(reward={"name": "x"}),
            "unknown_reward",
            f"reward 'x' is not known; {REWARDS}",
        ),
        (
            task(reward={"name": "numeric", "params": {"tolerence": 1}}),
            "bad_reward",
            (
                "reward.params of numeric: tolerence: Extra inputs are not permitted. "
                "It takes tolerance, relative"
            ),
        ),
        (
            task(reward={"name": "weighted", "params": {"of": [{"name": "mine"}, {"name": "y"}]}}),
            "unknown_reward",
            f"reward 'y' is not known; {REWARDS}",
        ),
    ],
)
def test_a_refusal_names_what_is_known(given: Task, reason: str, text: str) -> None:
    with pytest.raises(Rejected) as refused:
        check(given, KNOWN)
    assert (refused.value.reason, str(refused.value)) == (reason, text)


def test_size() -> None:
    check_size(10, 10)
    with pytest.raises(Rejected, match="11 bytes; at most 10"):
        check_size(11, 10)


def test_a_long_list_of_policies_is_cut() -> None:
    assert str(unknown_policy("x", [])).endswith("known policies: none")
    assert str(unknown_policy("x", [f"p{index:02}" for index in range(21)])).endswith("p19, …")
