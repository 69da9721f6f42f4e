"""Which choice did the answer make?"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from leyden_reward.rewards.library.texts import LONGEST_TEXT, TaskFault, final_part, reference_of, written
from leyden_schemas import Trajectory
from leyden_schemas.rewards import MultipleChoice, params_of

_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s{0,9}(?=\{)")
_ARTICLE = re.compile(r"[ \t]+(?!(?:is|and|or|because|since|as)\b)[a-z]")
_OPENS, _CLOSES = r"[*_(\[\"'$]{0,4}", r"[*_)\]\"'$]{0,4}"
_BEGINS, _ENDS = r"(?<![A-Za-z0-9'’])(?<!\d[.,])", r"(?!['’]?[A-Za-z0-9]|[.,]\d)"


@dataclass(frozen=True, slots=True)
class Patterns:
    """How a text may name one of some choices."""

    alone: re.Pattern[str]
    said: re.Pattern[str]
    leading: re.Pattern[str]
    mentioned: re.Pattern[str]


def multiple_choice(trajectory: Trajectory) -> float:
    """1 when the choice that the output made is the reference's, else 0; no choice is 0.

    Raises ``TaskFault`` when the reference names none of the choices.
    """
    choices = tuple(params_of(trajectory.task.reward, MultipleChoice).choices)
    wanted = choice_in(written(reference_of(trajectory)), choices)
    if wanted is None:
        raise TaskFault(
            f"multiple_choice: the reference {written(trajectory.task.reference)[:200]!r} is none of "
            f"{', '.join(choices)}"
        )
    return float(choice_in(written(trajectory.output), choices) == wanted)


def choice_in(text: str, choices: Iterable[str]) -> str | None:
    """The choice that a text makes, in capitals: the first of these that finds one.

    1. The text is one, whatever punctuation is around it.
    2. The same, and all below, of what stands in its last ``\\boxed{}`` or ``<answer>``, or after ``####``.
    3. The last ``answer: B``, ``the answer is (B)``, ``I choose B`` or ``B is correct``.
    4. It begins with ``B.``, ``b)``, ``(B)``, ``B because`` or a line of ``B``, and no other line or sentence
       begins with another choice.
    5. The last one in brackets or by itself; a letter as a capital, words and digits in either case.

    ``A`` and ``I`` before a word in small letters are words themselves, except before is, and, or, because,
    since and as.
    """
    patterns = _patterns(tuple(choices))
    marked = final_part(text)
    if marked is not None:
        text = re.sub(r"[{}]", " ", _MARKUP.sub("", marked))
    text = text[-LONGEST_TEXT:].strip()
    if alone := patterns.alone.fullmatch(text[:400]):
        return _name(alone)
    if said := _named(patterns.said, text):
        return said[-1]
    leading = _named(patterns.leading, text)
    if len(set(leading)) == 1 and patterns.leading.match(text):
        return leading[0]
    mentioned = _named(patterns.mentioned, text)
    return mentioned[-1] if mentioned else None


def _named(pattern: re.Pattern[str], text: str) -> list[str]:
    """The choices that a pattern finds, without what is an article or a pronoun."""
    found = ((_name(match), match.end(match.lastindex or 0)) for match in pattern.finditer(text))
    return [name for name, end in found if name not in ("A", "I") or not _ARTICLE.match(text, end)]


def _name(match: re.Match[str]) -> str:
    return " ".join(match[match.lastindex or 0].upper().split())


@lru_cache(maxsize=64)
def _patterns(choices: tuple[str, ...]) -> Patterns:
    letters = [choice for choice in choices if len(choice) == 1 and choice.isalpha()]
    words = [choice for choice in choices if choice not in letters]
    letter, word, any_ = _either(letters), _either(words), _either(choices)
    bare = f"[{''.join(letters).upper()}]|{word}" if letters else word
    said = rf"{_OPENS}({any_}){_ENDS}"
    noun, verb = (
        r"(?i:answer|choice|option)",
        r"(?i:chose|choose|pick(?:ed)?|select(?:ed)?|go(?:ing)?\s+with)",
    )
    is_ = r"(?i:\s{1,9}(?:is|(?:would|must|should)\s+be)\s{0,9}:?|\s{0,9}[:=])"
    reason = r"(?:\s{1,9}[-–—]|,?[ \t]{1,9}(?:because|since|as|for)|(?=[ \t]{0,9}$))"
    right = r"\s{1,9}is\s{1,9}(?:the\s{1,9})?(?:correct|right|best)\b"
    which = r"(?i:(?:the\s{1,9})?(?:option|choice|answer|letter)\s{1,9})?"
    return Patterns(
        alone=re.compile(rf"[\W_]*({any_})[\W_]*"),
        said=re.compile(
            rf"\b{noun}[*_]{{0,2}}{is_}[*_\s]{{0,9}}{which}{said}"
            rf"|\b(?i:answer|choice)\s{{1,9}}(?:{_OPENS}({bare}){_ENDS}|\(({any_})\))"
            rf"|\b{verb}\s{{1,9}}{which}{said}"
            rf"|{_BEGINS}({bare}){_ENDS}{_CLOSES}{right}"
        ),
        leading=re.compile(
            rf"(?:^|(?<=[.;,!?]\s))[ \t]{{0,9}}{_OPENS}"
            rf"(?:({letter})[*_]{{0,2}}(?:[.):\]]|{reason})|({word})[*_]{{0,2}}(?:[.):\],;!]|{reason}))(?=[\s*_]|\Z)",
            re.MULTILINE,
        ),
        mentioned=re.compile(
            rf"[(\[]({any_})[)\]]|\b(?:{noun}|(?i:letter))\s{{1,9}}{said}|{_BEGINS}({bare}){_ENDS}"
        ),
    )


def _either(choices: Iterable[str]) -> str:
    """A pattern for any of them in either case, longer ones first; for none one that never matches."""
    spelled = [
        r"\s+".join(map(re.escape, choice.split())) for choice in sorted(choices, key=len, reverse=True)
    ]
    return f"(?i:{'|'.join(spelled)})" if spelled else r"(?!)"
