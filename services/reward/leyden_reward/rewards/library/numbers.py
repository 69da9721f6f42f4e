"""The numbers in a text, as people, GSM8K and MATH write them; exact, as fractions."""

import re
from dataclasses import dataclass
from fractions import Fraction

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ ]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_CHARACTERS = str.maketrans("\u2212\u2013\ufe63\uff0d\u00a0\u202f\u2009×·", "----   **")
_PART = rf"\s?(?:\{{\s?([-+]?(?:{_PLAIN}))\s?\}}|(\d))"
_RATIO = re.compile(rf"\\[dtc]?frac{_PART}{_PART}")
_SPELLINGS = [
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[!,]"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "*"),
    (re.compile(r"\^\s?\{\s?([-+]?\d{1,9})\s?\}"), r"^\1"),
    (re.compile(r"\*\*(?<=\d\*\*)(?=[-+]?\d)"), "^"),
]
_BRACES = r"\s?\{[^{}]{0,200}(?:\{[^{}]{0,200}\}[^{}]{0,200}){0,9}\}"
_NUMBER = re.compile(
    rf"""
    (?=[-+.\d\\$€£¥])(?:                               # only for speed
    (?P<unread>\\(?:[dtc]?frac|sqrt)(?![a-z])(?:\s?\[\d\])?(?:{_BRACES}){{0,2}}) |
    (?<!\^)(?<!\^[-+])(?<!\d)(?<!\d[./])          # no exponent, no rest of a number or a date
    (?P<sign>(?<![\w)\]}}])[-+])? (?:\\?[$€£¥]\s?(?P<late>[-+])?)?
    (?:(?P<whole>\d{{1,9}})[ ](?=\d{{1,9}}/))?
    (?P<top>{_PLAIN}) (?:[eE](?P<shift>[-+]?\d{{1,3}})(?!\d))?
    (?:[ ]?/[ ]?(?P<bottom>{_PLAIN})(?![\d/]))?
    (?:(?P<ten>[ ]?[*x][ ]?10)?[ ]?\^[ ]?(?P<power>[-+]?\d{{1,3}})(?!\d))?
    (?P<percent>[ ]?(?:\\?%|percent\b))?)
    """,
    re.VERBOSE,
)
_AROUND = re.compile(r"^(?:[\s$]|\\[(\[$])+|(?:[\s$.]|\\[)\]$])+$")
_LONGEST, _LARGEST_POWER = 1_000, 10_000


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands, and whether a percent sign stands after it."""

    value: Fraction
    percent: bool = False


def last_number(text: str) -> Number | None:
    """The last number of a text; None without any, or where a root or another fraction comes last."""
    found = list(_NUMBER.finditer(_respelled(text)))
    return _number(found[-1]) if found else None


def whole_number(text: str) -> Number | None:
    """The number that is all of a text, dollar signs around it apart."""
    match = _NUMBER.fullmatch(_AROUND.sub("", _respelled(text))) if len(text) <= _LONGEST else None
    return match and _number(match)


def _respelled(text: str) -> str:
    """With one way to write minus, times, powers and ratios."""
    text = text.translate(_CHARACTERS)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return _RATIO.sub(_ratio, text)


def _ratio(match: re.Match[str]) -> str:
    top, digit, bottom, last = match.groups("")
    after_digit = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' * after_digit}{top or digit}/{bottom or last}"


def _number(match: re.Match[str]) -> Number | None:
    if match["unread"] or len(match[0]) > _LONGEST:
        return None
    try:
        value = _value(match)
    except ZeroDivisionError:
        return None
    negative = "-" in ((match["sign"] or "") + (match["late"] or ""))
    return Number(-value if negative else value, match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction:
    value = _fraction(match["top"], match["shift"])
    if match["bottom"]:
        value /= _fraction(match["bottom"])
    if match["whole"] and value < 1:
        value += int(match["whole"])
    if match["ten"]:
        return value * Fraction(10) ** int(match["power"])
    if match["power"]:
        return _raised(value, int(match["power"]))
    return value


def _fraction(digits: str, shift: str | None = None) -> Fraction:
    plain = digits.replace(",", "").replace(" ", "")
    return Fraction(f"{plain}e{shift}" if shift else plain)


def _raised(value: Fraction, power: int) -> Fraction:
    digits = len(str(value)) * abs(power)
    if digits > _LARGEST_POWER:
        raise ZeroDivisionError
    return value**power
