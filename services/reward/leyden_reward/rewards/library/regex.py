"""Does the output match a pattern?

The pattern may take for ever on some text, so this runs in a worker process: its deadline ends it.
"""

import re

from leyden_reward.rewards.library.texts import TaskFault, reference_of, written
from leyden_schemas import Trajectory
from leyden_schemas.rewards import Regex, params_of

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}


def regex(trajectory: Trajectory) -> float:
    """1 when the pattern is found in the output, else 0.

    Raises ``TaskFault`` for what is no pattern.
    """
    params = params_of(trajectory.task.reward, Regex)
    pattern = reference_of(trajectory) if params.pattern is None else params.pattern
    if not isinstance(pattern, str):
        raise TaskFault(f"regex: the pattern is {pattern!r}, not a text")
    compiled = _compiled(pattern, params.flags)
    match = compiled.fullmatch if params.full else compiled.search
    return float(match(written(trajectory.output)) is not None)


def _compiled(pattern: str, letters: str) -> re.Pattern[str]:
    flags = re.NOFLAG
    for letter in letters:
        flags |= _FLAGS[letter]
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise TaskFault(f"regex: {pattern[:200]!r} is no pattern: {error}") from None
