"""Anything an agent may have sent, and rollouts of thousands of steps."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.conversation import turns
from leyden_platform.testing.rollouts import make_step
from leyden_platform.testing.talks import Talk, adding
from leyden_reward.air.rules import RULES
from leyden_reward.air.shaping import Shaping
from leyden_schemas import CompletionStatus, Protocol, RewardTerm, Step, Timings

KEYS = [
    "messages",
    "input",
    "prompt",
    "tools",
    "choices",
    "message",
    "output",
    "content",
    "text",
    "role",
    "type",
]
KEYS += [
    "tool_calls",
    "function",
    "name",
    "arguments",
    "parameters",
    "input_schema",
    "call_id",
    "tool_call_id",
]
KEYS += [
    "tool_use_id",
    "id",
    "is_error",
    "refusal",
    "usage",
    "completion_tokens",
    "custom",
    "status",
    "error",
]
KEYS += [
    "incomplete_details",
    "reason",
    "stop_reason",
    "properties",
    "required",
    "enum",
    "$ref",
    "finish_reason",
]
WORDS = [
    "user",
    "assistant",
    "tool",
    "function_call",
    "function_call_output",
    "tool_use",
    "tool_result",
    "message",
]
WORDS += [
    "text",
    "refusal",
    "c1",
    "add",
    "length",
    "completed",
    "failed",
    '{"a": 1}',
    "[",
    "#",
    "\ud800",
    "No.",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=30,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


def likely(key: str, inner: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of the right outline, with anything inside."""
    item = st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(WORDS),
            "type": st.sampled_from(WORDS),
            "content": values,
            "tool_calls": st.lists(st.fixed_dictionaries({"function": objects}, optional={"id": values})),
            "call_id": values,
            "output": values,
            "arguments": values,
            "name": st.sampled_from(WORDS),
        },
    )
    whole = st.fixed_dictionaries({inner: item}) if inner else item
    return st.fixed_dictionaries({key: st.lists(whole | values, max_size=4)}, optional={"tools": values})


requests = objects | likely("messages", "") | likely("input", "")
responses = objects | likely("choices", "message") | likely("output", "") | likely("content", "")
terms = st.builds(
    RewardTerm,
    name=st.sampled_from(
        ["signal.tool.add", "signal.tool.add:c1", "signal.tool.", "signal.state", "signal.x"]
    ),
    value=st.floats(-1, 1),
    feedback=st.none() | st.text(max_size=3),
)
anything = st.builds(
    lambda **fields: Step.model_construct(**{**dict(make_step()), **fields}),
    agent=st.sampled_from(["main", "helper"]),
    request=requests,
    response=st.none() | responses,
    finish_reason=st.sampled_from(["stop", "length", None]),
    status=st.sampled_from(CompletionStatus),
    timings=st.none() | st.builds(Timings, queue_s=st.none() | st.floats(), total_s=st.floats()),
    terms=st.lists(terms, max_size=3),
)


@given(st.lists(anything, max_size=6), st.floats(min_value=0.001, max_value=1.0))
def test_whatever_an_agent_sends_rules_measure_within_bounds(steps: list[Step], cap: float) -> None:
    conversation = turns(steps)
    for rule in RULES:
        measured = rule.measure(conversation)
        assert len(measured) == len(steps)
        assert all(0.0 <= value < 1e6 for value in measured), rule.name
    shaped = Shaping(cap=cap).shape(steps).steps
    new = [
        one.reward - sum(t.weighted for t in before.terms) for one, before in zip(shaped, steps, strict=True)
    ]
    assert abs(sum(new)) <= cap + 1e-6


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"content": [value], "type": "text", "role": "user"}
    return value


@pytest.mark.parametrize("levels", [100, 5_000])
def test_deeply_nested_content(levels: int) -> None:
    fields: list[dict[str, Any]] = [
        {"messages": [deep(levels)], "tools": [deep(levels)]},
        {"input": [deep(levels), {"type": "function_call_output", "output": deep(levels)}]},
        {"tools": [{"type": "function", "function": {"name": "add", "parameters": deep(levels)}}]},
    ]
    call = {"id": "c1", "function": {"name": "add", "arguments": deep(levels)}}
    answers: list[dict[str, Any]] = [
        {"choices": [{"message": {"content": deep(levels), "tool_calls": [call]}}]},
        {"output": [{"type": "message", "content": [deep(levels)]}]},
        {"content": [{"type": "tool_use", "name": "add", "input": deep(levels)}]},
    ]
    bare = dict(make_step())
    steps = [
        Step.model_construct(**{**bare, "request": request, "response": response})
        for request in fields
        for response in answers
    ]
    assert len(Shaping(cap=1.0).shape([*steps, *steps]).steps) == 18


class Touched(list[Any]):
    """A conversation that counts how many of its items are looked at."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        Touched.looks += len(found) if isinstance(key, slice) else 1
        return found

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            Touched.looks += 1
            yield item

    def __reversed__(self) -> Iterator[Any]:
        for item in super().__reversed__():
            Touched.looks += 1
            yield item


def long_talk(protocol: Protocol, length: int) -> list[Step]:
    """A rollout that never ends, with everything that rules look for."""
    talk = Talk(protocol)
    for n in range(length):
        match n % 5:
            case 0:
                talk.calls(adding(n, n), results=[str(n)])
            case 1:
                talk.calls(adding(n, "x"), results=["error: no"])
            case 2:
                talk.calls(adding(0, 0), results=["0"])
            case 3:
                talk.says("Let me think.", reply="Go on.")
            case _:
                talk.says(f"Thought {n}", reply="No, that's wrong.")
    return [step.model_copy(update={"request": _touched(step.request)}) for step in talk.steps]


def _touched(request: dict[str, Any]) -> dict[str, Any]:
    return {
        name: Touched(value) if name in ("messages", "input") else value for name, value in request.items()
    }


def work(steps: list[Step]) -> tuple[int, int]:
    """How many functions are called to score the steps, and how many items of conversations are looked at."""
    calls = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    shaping = Shaping(cap=0.25)
    Touched.looks = 0
    sys.setprofile(profile)
    try:
        shaping.shape(steps)
    finally:
        sys.setprofile(None)
    return calls, Touched.looks


@pytest.mark.parametrize("protocol", [Protocol.CHAT, Protocol.RESPONSES, Protocol.MESSAGES])
def test_work_grows_with_the_steps_and_not_with_what_they_repeat(protocol: Protocol) -> None:
    steps = long_talk(protocol, 2_000)
    few_calls, few_items = work(steps[:200])
    calls, items = work(steps)
    # Ten times as many steps: linear is ten, quadratic a hundred.
    assert calls < 13 * few_calls
    assert items < 13 * few_items
    assert items < 20 * len(steps)
    assert calls < 2_000 * len(steps)


def test_a_history_that_is_rewritten_in_every_step_stays_linear_too() -> None:
    steps = long_talk(Protocol.CHAT, 1_000)
    rewritten = [
        step.model_copy(
            update={"request": {**step.request, "messages": Touched(step.request["messages"][-300:])}}
        )
        for step in steps
    ]
    few_calls, few_items = work(rewritten[300:400])
    calls, items = work(rewritten)
    assert calls < 15 * few_calls
    assert items < 15 * few_items
