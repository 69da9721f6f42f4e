"""``@leyden.rule``: marks a function as an intermediate reward, and leaves it the function that it is.

The reward service finds it by ``module:function`` (``LEYDEN_CATALOGUE_RULES``) and runs it on every rollout,
in a process of its own.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class RuleMark:
    """What ``@leyden.rule`` was told. ``deadline_s`` can only shorten ``LEYDEN_REWARD_DEADLINE_S``."""

    weight: float
    at_most: float
    deadline_s: float | None = None


def rule(*, weight: float, at_most: float = 1.0, deadline_s: float | None = None) -> Callable[[F], F]:
    """Mark a function of a rollout's ``turns`` that measures a habit: a number of 0 or more for each step.

    ``weight`` is the reward of one unit: below 0 for blame, above for praise, which fades as the outcome
    arrives. ``at_most`` is how many units count in one rollout. Name a second parameter to get the
    ``Trajectory`` too; one with a default keeps it, unless it is called ``trajectory``. Raises ``TypeError``
    or ``ValueError``, when the module is imported, for what the service could not use.
    """
    mark = RuleMark(weight, at_most, deadline_s)
    _check(mark)

    def marked(function: F) -> F:
        _check_function(function)
        function.__leyden_rule__ = mark  # type: ignore[attr-defined]
        return function

    return marked


def _check(mark: RuleMark) -> None:
    if callable(mark.weight) or not math.isfinite(mark.weight) or mark.weight == 0:
        raise ValueError(f"@leyden.rule: weight is {mark.weight}; give a number above or below 0")
    if not 0 < mark.at_most < math.inf:
        raise ValueError(f"@leyden.rule: at_most is {mark.at_most}; give how many units count, above 0")
    if mark.deadline_s is not None and not 0 < mark.deadline_s < math.inf:
        raise ValueError(f"@leyden.rule: deadline_s is {mark.deadline_s}; give seconds above 0")


def _check_function(function: Callable[..., Any]) -> None:
    if not callable(function):
        raise TypeError(f"@leyden.rule decorates functions, not {function!r}")
    name = getattr(function, "__name__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"rule {name} yields; return a list with a number for each step")
    if not any(_takes(function, count) for count in (1, 2)):
        raise TypeError(f"rule {name} is called with the turns of a rollout, and its trajectory if it can")


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True
