"""The rules: each measures, between 0 and 1, how much of one habit every step shows.

A rule sees the conversation alone and never the task's reference, so it can say how the agent worked and
not whether it was right. Each states why it exists, what a step of it is worth (``weight``) and how many
steps' worth count in one trajectory (``at_most``). Adding a rule is one function and one entry in ``RULES``.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden_reward.air.arguments import violations
from leyden_reward.conversation import Call, Turn

Measure = Callable[[Sequence[Turn]], list[float]]

_MARKUP = re.compile(r"</?tool_call>|<function=|\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_call\|?>")
_ERROR_TEXT = re.compile(
    r"\s*(?:(?i:error|exception|traceback \(most recent call last\))(?!\w)"
    r"|[A-Za-z_][\w.]*(?:Error|Exception)\b)"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A habit, what it is worth per step, and how many steps' worth of it count in a trajectory."""

    name: str
    measure: Measure
    weight: float
    at_most: float
    why: str


def tool_call_succeeded(turn: Turn) -> float:
    """Share of the step's calls whose tool answered without an error."""
    return _share(turn.calls, lambda call: call.result is not None and not says_error(call.result))


def tool_call_failed(turn: Turn) -> float:
    """Share of the step's calls whose tool answered with an error."""
    return _share(turn.calls, lambda call: call.result is not None and says_error(call.result))


def malformed_tool_call(turn: Turn) -> float:
    """Share of calls whose arguments are no JSON object; 1 when call markup was left in the text."""
    if turn.tools and not turn.calls and _MARKUP.search(turn.text):
        return 1.0
    return _share(turn.calls, lambda call: call.parsed is None)


def unknown_tool(turn: Turn) -> float:
    """Share of calls of tools that the request did not offer."""
    return _share(turn.calls, lambda call: call.name not in turn.tools)


def schema_violation(turn: Turn) -> float:
    """Share of calls of offered tools whose arguments break the tool's parameter schema."""
    return _share(turn.calls, lambda call: _violates(call, turn.tools))


def repeated_call(turns: Sequence[Turn]) -> list[float]:
    """Share of calls that this agent made before, in any step, without learning anything new."""
    asked: set[object] = set()
    known: set[object] = set()
    shares = []
    for turn in turns:
        repeated = 0
        for call in turn.calls:
            question = (turn.agent, call.fingerprint)
            answer = (question, call.result)
            repeated += question in asked if call.result is None else answer in known
            asked.add(question)
            known.add(answer)
        shares.append(repeated / len(turn.calls) if turn.calls else 0.0)
    return shares


def empty_output(turn: Turn) -> float:
    """1 when an answer has neither text nor a call."""
    return float(turn.answered and not turn.calls and not turn.text.strip())


def truncated_output(turn: Turn) -> float:
    """1 when the token limit cut the answer off."""
    return float(turn.answered and turn.finish_reason == "length")


def each(measure: Callable[[Turn], float]) -> Measure:
    """A rule that looks at every step by itself."""
    return lambda turns: [measure(turn) for turn in turns]


RULES: tuple[Rule, ...] = (
    Rule(
        "tool_call_succeeded",
        each(tool_call_succeeded),
        weight=0.05,
        at_most=1,
        why="A first working call is what a policy must discover before an outcome can follow from it. Only "
        "one call's worth counts: further calls earn nothing, so calling cannot be farmed.",
    ),
    Rule(
        "tool_call_failed",
        each(tool_call_failed),
        weight=-0.05,
        at_most=3,
        why="The tool itself said that the call was wrong; the step that made it is to blame.",
    ),
    Rule(
        "malformed_tool_call",
        each(malformed_tool_call),
        weight=-0.1,
        at_most=2,
        why="A call that no parser reads does nothing; it is the most common habit of small models.",
    ),
    Rule(
        "unknown_tool",
        each(unknown_tool),
        weight=-0.1,
        at_most=2,
        why="A tool that was not offered cannot have been meant to work.",
    ),
    Rule(
        "schema_violation",
        each(schema_violation),
        weight=-0.05,
        at_most=3,
        why="Arguments that break the offered schema are refused by strict tools and guessed at by lax ones.",
    ),
    Rule(
        "repeated_call",
        repeated_call,
        weight=-0.05,
        at_most=3,
        why="The same call with the same result is no progress; with a changed result (polling) it is.",
    ),
    Rule(
        "empty_output",
        each(empty_output),
        weight=-0.1,
        at_most=2,
        why="An empty answer helps nobody and often ends the agent's loop early.",
    ),
    Rule(
        "truncated_output",
        each(truncated_output),
        weight=-0.1,
        at_most=2,
        why="An answer that ran into the token limit was too long for its purpose.",
    ),
)


def says_error(result: str) -> bool:
    """Whether a tool's text reports a failure: an error object, or text that begins with an error."""
    try:
        value = json.loads(result)
    except (ValueError, RecursionError):
        return bool(_ERROR_TEXT.match(result))
    if isinstance(value, str):
        return bool(_ERROR_TEXT.match(value))
    return isinstance(value, dict) and _object_says_error(value)


def _object_says_error(value: Mapping[str, Any]) -> bool:
    flagged = any(value.get(key) is True for key in ("isError", "is_error"))
    failed = any(value.get(key) is False for key in ("ok", "success"))
    return flagged or failed or bool(value.get("error")) or value.get("status") in ("error", "failed")


def _share(calls: Sequence[Call], holds: Callable[[Call], bool]) -> float:
    return sum(map(holds, calls)) / len(calls) if calls else 0.0


def _violates(call: Call, tools: Mapping[str, Mapping[str, Any]]) -> bool:
    arguments = call.parsed
    return arguments is not None and call.name in tools and violations(tools[call.name], arguments) > 0
