"""``@leyden.reward``: marks a function as a reward, and leaves it the function that it is.

The reward service finds it by ``module:function``, or by its name in a module
(``LEYDEN_CATALOGUE_REWARDS``), and runs it in a process of its own. Called directly, as tests do, nothing is
different from an undecorated function.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, overload

from leyden_schemas import RewardTerm, Trajectory

Reward: TypeAlias = float | Mapping[str, float] | RewardTerm | Sequence[RewardTerm]
"""A number; named numbers, which are added up; or terms with weights and feedback texts."""
RewardFunction: TypeAlias = Callable[[Trajectory], Reward | Awaitable[Reward]]
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")


@dataclass(frozen=True, slots=True)
class RewardMark:
    """What ``@leyden.reward`` was told. ``deadline_s`` can only shorten ``LEYDEN_REWARD_DEADLINE_S``."""

    name: str
    deadline_s: float | None = None


@overload
def reward(function: F, /) -> F: ...
@overload
def reward(*, name: str | None = None, deadline_s: float | None = None) -> Callable[[F], F]: ...
def reward(
    function: F | None = None, /, *, name: str | None = None, deadline_s: float | None = None
) -> F | Callable[[F], F]:
    """Mark a function, sync or async, of one ``Trajectory``; ``name`` is the function's unless given.

    Raises ``TypeError`` or ``ValueError``, when the module is imported, for what the service could not call.
    """

    def mark(function: F) -> F:
        named = RewardMark(str(name or getattr(function, "__name__", "")), deadline_s)
        _check(function, named)
        function.__leyden_reward__ = named  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)


def _check(function: Callable[..., Any], mark: RewardMark) -> None:
    if not callable(function):
        raise TypeError(f"@leyden.reward decorates functions, not {function!r}")
    if not _NAME.fullmatch(mark.name):
        raise ValueError(f"{mark.name!r} cannot be a reward's name; use letters, digits, '.', '_', '-'")
    if mark.deadline_s is not None and not 0 < mark.deadline_s < float("inf"):
        raise ValueError(f"reward {mark.name}: deadline_s is {mark.deadline_s}; give seconds above 0")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"reward {mark.name} yields; return the reward")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise TypeError(f"reward {mark.name} is called with one trajectory: {error}") from None
