"""What several rewards read from a trajectory: its reference, its output as text."""

import json
import re
from collections.abc import Sequence
from typing import Any

from leyden_schemas import Trajectory

_HUGE = 10**4_000
LONGEST_TEXT = 100_000
"""Characters that are looked at, from the end: an answer stands there, and time is bounded."""

_FENCED = re.compile(
    r"(?<!`)(`{3,}+)[ \t]*([^\n`]*)(?:\n(.*?)(?:^[ \t]*\1|\1[ \t]*$|\Z)|\1)", re.DOTALL | re.MULTILINE
)
"""A block of Markdown: its fence, what stands beside it, and its text unless all is on one line."""

_MARK = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|<answer>|^####(?!#)(?=[^\n]*\s*\Z)", re.MULTILINE)


class TaskFault(ValueError):
    """The task does not say what a right answer is; the text says what it should."""


def reference_of(trajectory: Trajectory) -> Any:
    """What a right answer is. Raises ``TaskFault`` when the task does not say."""
    if trajectory.task.reference is None:
        raise TaskFault(
            f"{trajectory.task.reward.name} compares with the task's reference, and the task has none"
        )
    return trajectory.task.reference


def plain(value: Any) -> str:
    """A text without surrounding blanks; any other value as JSON."""
    return value.strip() if isinstance(value, str) else _as_json(value)


def written(value: Any) -> str:
    """The output as text; what is no text, and nothing, as JSON and as no text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _as_json(value)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except ValueError:  # Python writes no whole number of over 4,300 digits
        return json.dumps(_without_huge(value), sort_keys=True)


def _without_huge(value: Any) -> Any:
    match value:
        case int() if abs(value) >= _HUGE:
            return hex(value)
        case list():
            return [_without_huge(item) for item in value]
        case dict():
            return {key: _without_huge(item) for key, item in value.items()}
        case _:
            return value


def final_part(text: str) -> str | None:
    """What a text marks as its answer, if it does.

    That is its last ``\\boxed{…}`` or ``<answer>``, or a last line that begins with ``####``.
    """
    text = text[-LONGEST_TEXT:]
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    last = marks[-1]
    rest = text[last.end() :]
    if last[0].startswith("#"):
        return rest.strip() or None
    end = _closed(rest) if last[0].endswith("{") else rest.find("</answer>")
    return rest[: end if end >= 0 else len(rest)].strip() or None


def _closed(text: str) -> int:
    """Where the bracket that was open before ``text`` is closed, -1 if nowhere."""
    depth = 1
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return -1


def code_in(text: str, *languages: str) -> str:
    """What stands in the last fenced block of a Markdown text; the text itself where there is none.

    Blocks that are marked with one of ``languages`` go before others. A last block may lack its end.
    """
    blocks = [_block(match, languages) for match in _FENCED.finditer(text.replace("\r\n", "\n"))]
    marked = [code for language, code in blocks if language.lower() in languages]
    return (marked or [code for _, code in blocks] or [text])[-1]


def _block(match: re.Match[str], languages: Sequence[str]) -> tuple[str, str]:
    """The word beside the fence and the code; on one line the word is a language's, or part of the code."""
    beside, code = match[2], match[3]
    word, _, rest = beside.partition(" ")
    if code is not None:
        return word, code
    return (word, rest) if word.lower() in languages else ("", beside)
