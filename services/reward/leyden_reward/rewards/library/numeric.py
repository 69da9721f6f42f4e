"""Is the output's number the reference's?"""

from fractions import Fraction
from typing import Any

from leyden_reward.rewards.library.numbers import Number, last_number, whole_number
from leyden_reward.rewards.library.texts import LONGEST_TEXT, TaskFault, final_part, reference_of, written
from leyden_schemas import Trajectory
from leyden_schemas.rewards import Numeric, params_of


def numeric(trajectory: Trajectory) -> float:
    """1 when the output's number is the reference within a tolerance, else 0.

    A text's number is the last one in its ``\\boxed{…}``, ``<answer>`` or last line after ``####``; without
    those the last of all. Where one side alone has a percent sign, 50 % is 50 as well as 0.5.
    Raises ``TaskFault`` when the reference is not one number.
    """
    wanted, params = _wanted(reference_of(trajectory)), params_of(trajectory.task.reward, Numeric)
    if wanted is None:
        raise TaskFault(
            "numeric compares numbers, but the task's reference is "
            f"{written(trajectory.task.reference)[:200]!r}; give one number and nothing else"
        )
    given = number_in(trajectory.output)
    return float(given is not None and _equal(given, wanted, params))


def number_in(value: Any) -> Number | None:
    """A finite number: the value itself, or the one that its text comes to."""
    if isinstance(value, str):
        return last_number(final_part(value) or value[-LONGEST_TEXT:])
    return _itself(value)


def _wanted(reference: Any) -> Number | None:
    if isinstance(reference, str):
        return whole_number(final_part(reference) or reference[-LONGEST_TEXT:])
    return _itself(reference)


def _itself(value: Any) -> Number | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return Number(Fraction(value))
    return Number(Fraction(repr(value))) if value - value == 0 else None


def _equal(given: Number, wanted: Number, params: Numeric) -> bool:
    one_is_percent = given.percent != wanted.percent
    return any(
        abs(ours - theirs) <= max(_exact(params.tolerance), _exact(params.relative) * abs(theirs))
        for ours in _readings(given, one_is_percent)
        for theirs in _readings(wanted, one_is_percent)
    )


def _readings(number: Number, either: bool) -> tuple[Fraction, ...]:
    return (number.value, number.value / 100) if number.percent and either else (number.value,)


def _exact(share: float) -> Fraction:
    """0.1 as a tenth, so that what differs by a tenth is within it."""
    return Fraction(repr(share))
