"""Reward functions that need no user code; their parameters are ``task.reward.params``.

Each raises ``ValueError`` when the task does not say what a right answer is.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from leyden_schemas import Trajectory

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_LONGEST_TEXT = 100_000


def exact_match(trajectory: Trajectory) -> float:
    """1 when the output is the reference, else 0.

    Texts are compared without surrounding blanks, other values as JSON, so ``42`` matches ``"42"``.
    ``params``: ``ignore_case`` (default false).
    """
    reference = _reference(trajectory)
    given, wanted = _plain(trajectory.output), _plain(reference)
    if trajectory.task.reward.params.get("ignore_case", False):
        given, wanted = given.casefold(), wanted.casefold()
    return float(given == wanted)


def numeric(trajectory: Trajectory) -> float:
    """1 when the output's last number is the reference within a tolerance, else 0.

    ``params``: ``tolerance`` (absolute, default 1e-6) and ``relative`` (a share of the reference, default 0).
    """
    wanted = number_in(_reference(trajectory))
    if wanted is None:
        raise ValueError(
            f"numeric compares numbers, but the task's reference is {trajectory.task.reference!r}"
        )
    params = trajectory.task.reward.params
    given = number_in(trajectory.output)
    return float(
        given is not None
        and math.isclose(
            given,
            wanted,
            rel_tol=float(params.get("relative", 0.0)),
            abs_tol=float(params.get("tolerance", 1e-6)),
        )
    )


BUILTIN: dict[str, Callable[[Trajectory], float]] = {"exact_match": exact_match, "numeric": numeric}


def number_in(value: Any) -> float | None:
    """A finite number: the value itself, or the last one in its text (``1,234.5`` and ``1e3`` included)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return _finite(str(value))
    found = _NUMBER.findall(value[-_LONGEST_TEXT:]) if isinstance(value, str) else []
    return _finite(found[-1].replace(",", "")) if found else None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _reference(trajectory: Trajectory) -> Any:
    if trajectory.task.reference is None:
        raise ValueError(
            f"{trajectory.task.reward.name} compares with the task's reference, and the task has none"
        )
    return trajectory.task.reference


def _plain(value: Any) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True)
