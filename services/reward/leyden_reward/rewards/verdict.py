"""What a reward function's return value amounts to: terms that count, or a refusal with its reason."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

from leyden_schemas import RewardTerm

MAX_TERMS = 32
MAX_FEEDBACK = 4_000


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
            f"{by} returned {_shown(value)}; return a float, a non-empty dict of floats by name, "
            f"a RewardTerm or a list of at most {MAX_TERMS}",
        )
    numbers = [number for term in terms for number in (term.value, term.weight)]
    if not all(map(math.isfinite, numbers)):
        return Refused(Reason.NOT_FINITE, f"{by} returned {_shown(value)}; every number must be finite")
    total = sum(term.weighted for term in terms)
    if not abs(total) <= max_reward:
        return Refused(
            Reason.OUT_OF_RANGE, f"{by} returned {total:g}, beyond ±{max_reward:g} (LEYDEN_REWARD_MAX_REWARD)"
        )
    return Graded(tuple(terms), by)


def _terms(value: object) -> list[RewardTerm] | None:
    if isinstance(value, Real):
        return _named({"reward": value})
    if isinstance(value, Mapping):
        return _named(value)
    if isinstance(value, RewardTerm):
        return [_trimmed(value)]
    if isinstance(value, Sequence) and all(isinstance(item, RewardTerm) for item in value):
        return [_trimmed(term) for term in value] if 0 < len(value) <= MAX_TERMS else None
    return None


def _named(values: Mapping[object, object]) -> list[RewardTerm] | None:
    fits = all(isinstance(name, str) and name and isinstance(value, Real) for name, value in values.items())
    if not fits or not 0 < len(values) <= MAX_TERMS:
        return None
    return [_term(str(name)[:200], _number(value)) for name, value in values.items()]


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _term(name: str, value: float) -> RewardTerm:
    """A term that may hold NaN: it is judged next, and never leaves this module."""
    return RewardTerm.model_construct(name=name, value=value)


def _trimmed(term: RewardTerm) -> RewardTerm:
    feedback = term.feedback
    return term.model_copy(update={"feedback": feedback[:MAX_FEEDBACK]}) if feedback else term


def _shown(value: object) -> str:
    text = f"{type(value).__name__} {value!r}" if value is not None else "None"
    return text if len(text) <= 200 else text[:200] + "…"
