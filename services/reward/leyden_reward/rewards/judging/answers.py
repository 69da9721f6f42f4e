"""What a judge answered. Only an object with the question's id is a verdict; everything else is malformed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from leyden_reward.rewards.judging.prompts import Question

_LONGEST = 200_000
_MOST_OBJECTS = 1_000
_END_OF_THOUGHT = "</think>"
"""What stands before it is a draft, where the judge's server leaves reasoning in the answer."""


class Malformed(Exception):
    """The judge's answer holds no verdict; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Score:
    """From 0 to 1, and why."""

    value: float
    why: str


def score_in(answer: str, question: Question) -> Score:
    """The score of an answer about one. Raises ``Malformed``."""
    return _score(_verdict(answer, question))


def scores_in(answer: str, question: Question, count: int) -> list[Score]:
    """The scores of agents 1 to ``count``, in order. Raises ``Malformed`` unless each has exactly one."""
    listed = _verdict(answer, question).get("scores")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Malformed("'scores' is no list of objects")
    scores = {item.get("agent"): _score(item) for item in listed if isinstance(item.get("agent"), int)}
    if len(listed) != count or set(scores) != set(range(1, count + 1)):
        raise Malformed(f"it does not score each of {count} agents once")
    return [scores[number] for number in range(1, count + 1)]


def _verdict(answer: str, question: Question) -> Mapping[str, Any]:
    thought_out = answer.rpartition(_END_OF_THOUGHT)[2]
    verdicts = _verdicts(thought_out, question) or _verdicts(answer, question)
    if not verdicts:
        raise Malformed(f"no JSON object with the id {question.verdict_id!r}: {answer[:200]!r}")
    if any(verdict != verdicts[0] for verdict in verdicts):
        raise Malformed("it holds several verdicts that differ")
    return verdicts[0]


def _verdicts(text: str, question: Question) -> list[dict[str, Any]]:
    return [found for found in _objects(text) if found.get("id") == question.verdict_id]


def _objects(answer: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in a text."""
    text, decoder, place = answer[:_LONGEST], json.JSONDecoder(), 0
    for _ in range(_MOST_OBJECTS):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield found


def _score(found: Mapping[str, Any]) -> Score:
    value = found.get("score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Malformed(f"the score is {str(value)[:50]}, not a number from 0 to 1")
    return Score(float(value), str(found.get("why", "")))
