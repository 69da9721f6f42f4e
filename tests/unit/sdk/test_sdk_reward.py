"""``@leyden.reward`` as users meet it: in a module of theirs, and in their tests."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import leyden
from leyden.rewards import RewardMark


@leyden.reward
def right(trajectory: leyden.Trajectory) -> float:
    """1 when right."""
    return float(trajectory.output == trajectory.task.reference)


@leyden.reward(name="politeness", deadline_s=5)
async def polite(trajectory: leyden.Trajectory) -> leyden.RewardTerm:
    """Says please."""
    await asyncio.sleep(0)
    wanted = trajectory.task.reward.params["word"]
    return leyden.RewardTerm(
        name="polite", value=float(wanted in trajectory.output), feedback=f"say {wanted}"
    )


def test_a_decorated_function_is_still_that_function() -> None:
    assert right(leyden.example_trajectory("4", reference="4")) == 1.0
    assert right(leyden.example_trajectory("5", reference="4")) == 0.0
    assert right.__doc__ == "1 when right."


async def test_so_is_an_async_one() -> None:
    term = await polite(leyden.example_trajectory("yes please", params={"word": "please"}))
    assert (term.name, term.value, term.feedback) == ("polite", 1.0, "say please")


def test_the_mark_is_what_the_service_reads() -> None:
    assert vars(right)["__leyden_reward__"] == RewardMark("right")
    assert vars(polite)["__leyden_reward__"] == RewardMark("politeness", 5)


def test_an_example_has_what_rewards_look_at() -> None:
    said = {"choices": [{"message": {"role": "assistant", "content": "4"}}]}
    asked = {"messages": [{"role": "user", "content": "2 + 2"}]}
    trajectory = leyden.example_trajectory(
        4, reference=4, input={"question": "2 + 2"}, exchanges=[(asked, said)]
    )
    assert trajectory.task.input == {"question": "2 + 2"}
    assert (trajectory.steps[0].request, trajectory.steps[0].response) == (asked, said)
    assert trajectory == leyden.example_trajectory(
        4, reference=4, input={"question": "2 + 2"}, exchanges=[(asked, said)]
    )


def nothing() -> float:
    return 0.0


def two(trajectory: leyden.Trajectory, other: float) -> float:
    return other


async def many(trajectory: leyden.Trajectory) -> AsyncIterator[float]:
    yield 0.0


@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        (nothing, {}, "reward nothing is called with one trajectory: too many positional arguments"),
        (two, {}, "reward two is called with one trajectory: missing a required argument: 'other'"),
        (many, {}, "reward many yields; return the reward"),
        (right, {"name": "no spaces"}, "'no spaces' cannot be a reward's name"),
        (right, {"deadline_s": 0}, "deadline_s is 0; give seconds above 0"),
        ("right", {"name": "x"}, "decorates functions, not 'right'"),
        (lambda _trajectory: 0.0, {}, "'<lambda>' cannot be a reward's name"),
    ],
)
def test_what_the_service_could_not_call_is_said_at_once(
    function: Callable[..., Any], options: dict[str, Any], text: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=text.replace("(", r"\(").replace("+", r"\+")):
        leyden.reward(**options)(function)


def test_importing_leyden_imports_neither_services_nor_clients() -> None:
    heavy = [
        "httpx",
        "aiokafka",
        "faststream",
        "torch",
        "sqlalchemy",
        "leyden_reward",
        "leyden_gateway",
        "typer",
    ]
    code = f"import leyden, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_registrys_client_is_there_when_asked_for() -> None:
    assert leyden.RegistryClient("http://nowhere").__class__.__name__ == "RegistryClient"
    with pytest.raises(AttributeError, match="no attribute 'rewards_of'"):
        _ = leyden.rewards_of
