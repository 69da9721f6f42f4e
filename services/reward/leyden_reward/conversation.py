"""What a step asked, said and got back, read from the recorded JSON of the chat protocol.

Whatever an agent put into its requests, reading it never raises: what has not the expected shape is
absent. Steps of other protocols have no calls and no text here, so rules stay silent about them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden_schemas import Step

LOOK_AHEAD = 8
"""How many later steps of the same agent are searched for a tool's result."""


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a response; ``result`` is the tool message's text, None when the agent sent none."""

    name: str
    arguments: str
    result: str | None = None

    @property
    def parsed(self) -> dict[str, Any] | None:
        """The arguments, or None when they are not a JSON object."""
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def fingerprint(self) -> tuple[str, str]:
        """Equal for calls of one tool with equal arguments, however they are spaced."""
        try:
            return self.name, json.dumps(json.loads(self.arguments), sort_keys=True)
        except (ValueError, RecursionError):
            return self.name, self.arguments


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered step: its text, its tool calls with their results, and the tools it could have called."""

    agent: str
    answered: bool
    text: str
    calls: tuple[Call, ...]
    tools: Mapping[str, Mapping[str, Any]]
    finish_reason: str | None


def turns(steps: Sequence[Step]) -> list[Turn]:
    """One turn per step, in order."""
    return [_turn(steps, index) for index in range(len(steps))]


def _turn(steps: Sequence[Step], index: int) -> Turn:
    step = steps[index]
    message = _message(step)
    raw_calls = list(_items(message.get("tool_calls")))
    results = _results(steps, index) if raw_calls else {}
    return Turn(
        agent=step.agent,
        answered=bool(message),
        text=text_of(message.get("content")),
        calls=tuple(_call(raw, results) for raw in raw_calls),
        tools=_tools(step.request),
        finish_reason=step.finish_reason,
    )


def _message(step: Step) -> Mapping[str, Any]:
    choice = next(_items((step.response or {}).get("choices")), {})
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _call(raw: Mapping[str, Any], results: Mapping[str, str]) -> Call:
    function = raw.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    return Call(
        name=str(function.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments, default=str),
        result=results.get(str(raw.get("id"))),
    )


def _tools(request: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    functions = [tool.get("function") for tool in _items(request.get("tools"))]
    return {
        str(function.get("name")): _object(function.get("parameters"))
        for function in functions
        if isinstance(function, dict)
    }


def _results(steps: Sequence[Step], index: int) -> dict[str, str]:
    """Tool messages by call id, from the next request of this agent that has any after this step's own."""
    asked = len(list(_items(steps[index].request.get("messages"))))
    later = (step for step in steps[index + 1 :] if step.agent == steps[index].agent)
    for _, step in zip(range(LOOK_AHEAD), later, strict=False):
        added = list(_items(step.request.get("messages")))[asked:]
        found = {
            str(message.get("tool_call_id")): text_of(message.get("content"))
            for message in added
            if message.get("role") == "tool"
        }
        if found:
            return found
    return {}


def text_of(content: object) -> str:
    """The text of a message's content: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text") or "") for part in _items(content) if "text" in part)


def _items(value: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
