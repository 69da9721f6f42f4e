"""Which letter did the answer choose?"""

import re
from collections.abc import Iterator

from leyden_reward.rewards.library.texts import LONGEST_TEXT, reference_of, written
from leyden_schemas import Trajectory
from leyden_schemas.rewards import MultipleChoice, params_of

_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
_SAID = re.compile(
    r"\b(?i:answer|choice|option)\b(?i:\s{1,9}is)?\s{0,9}[:=]?\s{0,9}[*_(\[\"'$]{0,4}([A-Za-z])(?![A-Za-z'’])"
    r"|\\boxed\s{0,9}\{\s{0,9}(?:\\text\s{0,9}\{)?\s{0,9}\(?([A-Za-z])\)?\s{0,9}\}"
)
_MENTIONED = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![A-Za-z'’])([A-Z])(?![A-Za-z'’])")
_ARTICLE = re.compile(r"[ \t]+(?!(?:is|and|or|because|since|as)\b)[a-z]")


def multiple_choice(trajectory: Trajectory) -> float:
    """1 when the letter that the output chose is the reference's, else 0; no letter is 0.

    Raises ``ValueError`` when the reference names none of the choices.
    """
    choices = params_of(trajectory.task.reward, MultipleChoice).choices
    letters = frozenset(letter.upper() for letter in choices)
    wanted = letter_in(written(reference_of(trajectory)), letters)
    if wanted is None:
        raise ValueError(
            f"multiple_choice: the reference {trajectory.task.reference!r} is none of "
            f"{', '.join(sorted(letters))}"
        )
    return float(letter_in(written(trajectory.output), letters) == wanted)


def letter_in(text: str, letters: frozenset[str]) -> str | None:
    """The letter a text chooses, as a capital: the first of these that finds one of ``letters``.

    1. The text is one letter, whatever punctuation is around it.
    2. The last ``answer: B``, ``the answer is (B)``, ``option B`` or ``\\boxed{B}``, in either case.
    3. The last letter in brackets or capital letter by itself. ``A`` and ``I`` before a word in small
       letters are words themselves (``A cat``), except before is, and, or, because, since, as.
    """
    text = text[-LONGEST_TEXT:]
    if alone := _ALONE.fullmatch(text.strip()[:40]):
        return _last(iter([alone[1]]), letters)
    return _last(_groups(_SAID, text), letters) or _last(_mentioned(text), letters)


def _groups(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    return (match[match.lastindex or 0] for match in pattern.finditer(text))


def _mentioned(text: str) -> Iterator[str]:
    for match in _MENTIONED.finditer(text):
        bare = match[2]
        if bare is None or bare not in "AI" or not _ARTICLE.match(text, match.end()):
            yield match[match.lastindex or 0]


def _last(found: Iterator[str], letters: frozenset[str]) -> str | None:
    chosen = None
    for letter in found:
        chosen = letter.upper() if letter.upper() in letters else chosen
    return chosen
