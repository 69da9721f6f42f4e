"""Is the output's number the reference's?"""

import math
import re
from typing import Any

from leyden_reward.rewards.library.texts import LONGEST_TEXT, reference_of
from leyden_schemas import Trajectory
from leyden_schemas.rewards import Numeric, params_of

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")


def numeric(trajectory: Trajectory) -> float:
    """1 when the output's last number is the reference within a tolerance, else 0.

    Raises ``ValueError`` when the reference is no number.
    """
    wanted = number_in(reference_of(trajectory))
    if wanted is None:
        raise ValueError(
            f"numeric compares numbers, but the task's reference is {trajectory.task.reference!r}"
        )
    given, params = number_in(trajectory.output), params_of(trajectory.task.reward, Numeric)
    allowed = max(params.tolerance, params.relative * abs(wanted))
    return float(given is not None and math.isclose(given, wanted, rel_tol=0.0, abs_tol=allowed))


def number_in(value: Any) -> float | None:
    """A finite number: the value itself, or the last one in its text (``1,234.5`` and ``1e3`` included)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _finite(str(value))
    found = _NUMBER.findall(value[-LONGEST_TEXT:]) if isinstance(value, str) else []
    return _finite(found[-1].replace(",", "")) if found else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
