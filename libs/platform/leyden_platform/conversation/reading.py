"""From the steps of a rollout to its turns: every answer beside what it led to in the agent's later requests.

A step looks at a few later steps of its agent, and at their last items only, so reading takes time that
grows with what is new in each step and not with the whole conversation that each one repeats.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from leyden_platform.conversation.answers import Answer, Made, answer_of, sampled_tokens
from leyden_platform.conversation.content import canonical
from leyden_platform.conversation.requests import (
    by_the_model,
    calls_in,
    conversation_of,
    limit_of,
    results_in,
    told_in,
    tools_of,
    words_in,
)
from leyden_platform.conversation.spans import Spans
from leyden_platform.conversation.values import Call, Outcome, Result, Turn
from leyden_platform.dialects.messages_arguments import json_object
from leyden_schemas import CompletionStatus, JsonObject, Step

LOOK_AHEAD = 8
"""How many later steps of the same agent are searched for what a step led to."""
WINDOW = 64
"""How many items at the end of a conversation are looked at, beside one for each result that is sought."""

_NOTHING = Answer()
_END_OF_THOUGHT = "</think>"
"""Servers without a parser for reasoning leave it in front of the text."""


def turns(steps: Sequence[Step]) -> list[Turn]:
    """One turn per step, in order."""
    requests = [step.request for step in steps]  # each is put together when it is asked for: once
    conversations = list(map(conversation_of, requests))
    offered = _Offered()
    return [
        _turn(step, requests[t], conversations[t], [conversations[k] for k in following], offered)
        for t, (step, following) in enumerate(zip(steps, _following(steps), strict=True))
    ]


def _following(steps: Sequence[Step]) -> Iterator[list[int]]:
    """For every step, the next steps of its agent."""
    by_agent: dict[str, list[int]] = defaultdict(list)
    place = []
    for t, step in enumerate(steps):
        place.append(len(by_agent[step.agent]))
        by_agent[step.agent].append(t)
    for step, at in zip(steps, place, strict=True):
        yield by_agent[step.agent][at + 1 : at + 1 + LOOK_AHEAD]


class _Offered:
    """The tools of requests; a list that several requests share is read once."""

    def __init__(self) -> None:
        self._read: dict[int, Mapping[str, Mapping[str, Any]] | None] = {}

    def of(self, request: JsonObject) -> Mapping[str, Mapping[str, Any]] | None:
        shared = request.get("tools")
        if shared is None:
            return tools_of(request)
        if id(shared) not in self._read:
            self._read[id(shared)] = tools_of(request)
        return self._read[id(shared)]


def _turn(
    step: Step,
    request: JsonObject,
    conversation: Sequence[Any],
    later: Sequence[Sequence[Any]],
    offered: _Offered,
) -> Turn:
    told = answer_of(step.response) if step.status is CompletionStatus.OK else None
    answer, spans = told or _NOTHING, Spans(step.terms)
    calls = _calls(answer, conversation, later, spans)
    return Turn(
        agent=step.agent,
        answered=told is not None,
        text=answer.text.rpartition(_END_OF_THOUGHT)[2],
        calls=calls,
        outcomes=(*_outcomes(calls), *spans.others()),
        refused=answer.refused,
        finish_reason=step.finish_reason or answer.finish_reason,
        tokens=len(step.token_ids) or sampled_tokens(step.response),
        tools=offered.of(request),
        limit=limit_of(request),
        serving_s=_serving_s(step),
        state=spans.state or _state(conversation),
        reaction=_reaction(conversation, later),
        cancelled=step.status is CompletionStatus.CANCELLED,
    )


def _calls(
    answer: Answer, conversation: Sequence[Any], later: Sequence[Sequence[Any]], spans: Spans
) -> tuple[Call, ...]:
    results = _results({made.id for made in answer.calls}, conversation, later)
    return tuple(_call(made, spans.result(made, results.get(made.id))) for made in answer.calls)


def _call(made: Made, result: Result | None) -> Call:
    if isinstance(made.arguments, str):
        arguments, parsed = made.arguments, json_object(made.arguments or "{}")
    else:
        arguments = canonical(made.arguments)
        parsed = json_object(arguments)
    same = arguments if parsed is None else canonical(parsed)
    return Call(made.name, arguments, parsed, (made.name, same), result)


def _outcomes(calls: Sequence[Call]) -> Iterator[Outcome]:
    for call in calls:
        if (worked := call.worked) is not None:
            yield Outcome(call.name, worked)


def _results(
    wanted: set[str], conversation: Sequence[Any], later: Sequence[Sequence[Any]]
) -> Mapping[str, Result]:
    """Results of these calls, from the next request of the agent that has any."""
    if not wanted:
        return {}
    found = (_results_at_the_end(wanted, items, _start(items, conversation)) for items in later)
    return next(filter(None, found), {})


def _results_at_the_end(wanted: set[str], items: Sequence[Any], start: int) -> Mapping[str, Result]:
    """Results behind the calls themselves: ids may have been used before."""
    found: dict[str, Result] = {}
    open_calls = set(wanted)
    first = max(start, len(items) - WINDOW - 2 * len(wanted))
    for item in reversed(items[first:]):
        if not open_calls:
            break
        if not isinstance(item, dict):
            continue
        if by_the_model(item):
            open_calls.difference_update(calls_in(item))
            continue
        for call_id, result in results_in(item):
            if call_id in open_calls:
                found[call_id] = result
                open_calls.discard(call_id)
    return found


def _start(items: Sequence[Any], before: Sequence[Any]) -> int:
    """Where a later request goes beyond an earlier one: behind it, unless the agent rewrote the history."""
    return len(before) if _goes_on(items, before) else 0


def _goes_on(items: Sequence[Any], before: Sequence[Any]) -> bool:
    """Whether a conversation begins with an earlier one, as far as the earlier one's last item tells."""
    at = len(before)
    return 0 < at <= len(items) and _same(items[at - 1], before[-1])


def _same(one: object, other: object) -> bool:
    return one is other or told_in(one) == told_in(other)


def _tail(items: Sequence[Any]) -> list[Any]:
    """What stands behind the model's last own item; at most a window of it."""
    return list(islice(_backwards(items), WINDOW))[::-1]


def _backwards(items: Sequence[Any]) -> Iterator[Any]:
    for item in reversed(items):
        if by_the_model(item):
            return
        yield item


def _state(conversation: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(told_in, _tail(conversation)))


def _reaction(conversation: Sequence[Any], later: Sequence[Sequence[Any]]) -> str | None:
    """The user's words in the first later request that adds something to this one."""
    for items in later:
        if len(items) > len(conversation) and _goes_on(items, conversation):
            added = _tail(items[max(len(conversation), len(items) - WINDOW) :])
            return "\n".join(filter(None, (words_in(item) for item in added if isinstance(item, dict))))
    return None


def _serving_s(step: Step) -> float | None:
    """None for a call that no server was asked for, or whose time nobody took."""
    if step.timings is None or step.timings.total_s <= 0:
        return None
    return max(0.0, step.timings.total_s - (step.timings.queue_s or 0.0))
