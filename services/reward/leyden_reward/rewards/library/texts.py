"""What several rewards read from a trajectory: its reference, its output as text."""

import json
import re
from typing import Any

from leyden_schemas import Trajectory

LONGEST_TEXT = 100_000
"""Characters that are looked at, from the end: an answer stands there, and time is bounded."""

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)


def reference_of(trajectory: Trajectory) -> Any:
    """What a right answer is. Raises ``ValueError`` when the task does not say."""
    if trajectory.task.reference is None:
        raise ValueError(
            f"{trajectory.task.reward.name} compares with the task's reference, and the task has none"
        )
    return trajectory.task.reference


def plain(value: Any) -> str:
    """A text without surrounding blanks; any other value as JSON."""
    return value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True)


def written(value: Any) -> str:
    """The output as text; what is no text, and nothing, as JSON and as no text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def code_in(text: str) -> str:
    """What stands in the last fenced block of a Markdown text; the text itself where there is none."""
    blocks = _FENCED.findall(text) if text.count("```") >= 2 else []
    return str(blocks[-1]) if blocks else text
