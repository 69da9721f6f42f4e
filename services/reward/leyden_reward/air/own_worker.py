"""What runs of a user's rule inside a worker process."""

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leyden_platform.conversation import turns
from leyden_reward.rewards.verdict import Reason, Refused, number, shown
from leyden_schemas import Trajectory

MARK = "__leyden_rule__"
"""Where ``@leyden.rule`` leaves what it was told; this service does not import the SDK."""


@dataclass(frozen=True, slots=True)
class OwnRule:
    """What ``@leyden.rule`` was told of a rule in the catalogue."""

    name: str
    weight: float
    at_most: float


def own_rule(name: str, function: Callable[..., Any]) -> OwnRule:
    """The rule that a function is. Raises ``TypeError`` for one that is not decorated."""
    mark = getattr(function, MARK, None)
    if mark is None:
        raise TypeError("not a rule; decorate the function with @leyden.rule(weight=..., at_most=...)")
    return OwnRule(name, float(mark.weight), float(mark.at_most))


def call(function: Callable[..., Any], trajectory: Trajectory) -> Any:
    """What the function returns; it takes the turns, and the trajectory too if it has room for it."""
    conversation = turns(trajectory.steps)
    value = function(conversation, trajectory) if takes_the_trajectory(function) else function(conversation)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def takes_the_trajectory(function: Callable[..., Any]) -> bool:
    """Whether it can be called with two arguments, and the second is no option of its own with a default."""
    signature = inspect.signature(function)
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    second = list(signature.parameters.values())[1:2]
    return not second or second[0].default is second[0].empty or second[0].name == "trajectory"


def judged(value: Any, trajectory: Trajectory, *, by: str) -> list[float] | Refused:
    """The measurements, one for each step; a refusal for anything else."""
    wanted = f"return a list of {len(trajectory.steps)} numbers, one for each step, of 0 or more"
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str | bytes)
        or len(value) != len(trajectory.steps)
    ):
        return Refused(Reason.WRONG_TYPE, f"{by} returned {shown(value)}; {wanted}")
    numbers = [number(item) for item in value]
    if None in numbers:
        return Refused(Reason.WRONG_TYPE, f"{by} returned {shown(value)}; {wanted}")
    found = [one for one in numbers if one is not None]
    if not all(map(math.isfinite, found)):
        return Refused(Reason.NOT_FINITE, f"{by} returned {shown(value)}; every number must be finite")
    if any(one < 0 for one in found):
        return Refused(Reason.OUT_OF_RANGE, f"{by} returned {shown(value)}; a weight below 0 makes it blame")
    return found
