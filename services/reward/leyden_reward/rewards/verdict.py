"""What a reward function's return value amounts to: terms that count, or a refusal with its reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from numbers import Real

from leyden_schemas import RewardTerm, writable

MAX_TERMS = 32
MAX_FEEDBACK = 4_000
_LONGEST_NAME = 200


class Reason(StrEnum):
    """Why a rollout could not be scored; each excludes it instead of scoring 0."""

    UNKNOWN = "reward_unknown"
    PARAMS = "reward_params"
    RAISED = "reward_raised"
    TIMED_OUT = "reward_timed_out"
    EXITED = "reward_exited"
    NOT_FINITE = "reward_not_finite"
    OUT_OF_RANGE = "reward_out_of_range"
    WRONG_TYPE = "reward_wrong_type"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    JUDGE_UNAVAILABLE = "judge_unavailable"
    JUDGE_BUDGET = "judge_budget"
    JUDGE_MALFORMED = "judge_malformed"
    NO_FEEDBACK = "no_feedback"


@dataclass(frozen=True, slots=True)
class Graded:
    """The terms of a final reward, and which function at which version of its source gave them."""

    terms: tuple[RewardTerm, ...]
    by: str


@dataclass(frozen=True, slots=True)
class Refused:
    """No reward can be told; ``text`` says what a person should look at."""

    reason: Reason
    text: str


Verdict = Graded | Refused


def verdict(value: object, *, by: str, max_reward: float) -> Verdict:
    """Judge what a reward function returned: a number, named numbers, a ``RewardTerm`` or a list of those."""
    terms = _terms(value)
    if terms is None:
        return Refused(
            Reason.WRONG_TYPE,
            f"{by} returned {shown(value)}; return a float, a non-empty dict of floats by name, "
            f"a RewardTerm or a list of at most {MAX_TERMS}",
        )
    numbers = [number for term in terms for number in (term.value, term.weight)]
    if not all(map(math.isfinite, numbers)):
        return Refused(Reason.NOT_FINITE, f"{by} returned {shown(value)}; every number must be finite")
    total = sum(term.weighted for term in terms)
    if not abs(total) <= max_reward:
        return Refused(
            Reason.OUT_OF_RANGE, f"{by} returned {total:g}, beyond ±{max_reward:g} (LEYDEN_REWARD_MAX_REWARD)"
        )
    return Graded(tuple(terms), by)


def number(value: object) -> float | None:
    """The float that a number is; so is an array or tensor of no dimensions. None for what is none."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _terms(value: object) -> list[RewardTerm] | None:
    if isinstance(value, Mapping):
        return _named(value)
    if isinstance(value, RewardTerm):
        return [_trimmed(value)]
    if isinstance(value, Sequence) and all(isinstance(item, RewardTerm) for item in value):
        return [_trimmed(term) for term in value] if 0 < len(value) <= MAX_TERMS else None
    return _named({"reward": value})


def _named(values: Mapping[object, object]) -> list[RewardTerm] | None:
    numbers = {name: number(value) for name, value in values.items()}
    if not 0 < len(numbers) <= MAX_TERMS:
        return None
    terms = [
        _term(_name(name), one)
        for name, one in numbers.items()
        if isinstance(name, str) and name and one is not None
    ]
    return terms if len(terms) == len(numbers) else None


def _term(name: str, value: float) -> RewardTerm:
    """A term that may hold NaN: it is judged next, and never leaves this module."""
    return RewardTerm.model_construct(name=name, value=value)


def _trimmed(term: RewardTerm) -> RewardTerm:
    """Of our own class: the user's, a subclass, might not get out of its process."""
    feedback = writable(term.feedback[:MAX_FEEDBACK]) if term.feedback else term.feedback
    return RewardTerm.model_construct(
        name=_name(term.name), value=term.value, weight=term.weight, feedback=feedback
    )


def _name(name: str) -> str:
    return writable(name[:_LONGEST_NAME])


def shown(value: object) -> str:
    try:
        text = f"{type(value).__name__} {value!r}" if value is not None else "None"
    except Exception as error:  # noqa: BLE001 - user code, or a whole number of more digits than Python writes
        return f"{type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 200 else text[:200] + "…"
