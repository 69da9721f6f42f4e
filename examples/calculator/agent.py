"""An ordinary tool-calling agent: it works out an expression with a calculator, one operation at a time.

Nothing here knows that it is being recorded or trained. Point `OPENAI_BASE_URL` at any
OpenAI-compatible server and run `python agent.py "3 + 4 * 5"`.
"""

import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam, ChatCompletionToolParam

MAX_TURNS = 6
SYSTEM = "Use the calculator, one operation at a time. Reply with the number."
CALCULATOR: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Applies one operation to two integers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "op": {"type": "string", "enum": ["+", "-", "*", "/"]},
                "b": {"type": "integer"},
            },
            "required": ["a", "op", "b"],
        },
    },
}
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}

# Building an SSL context costs about 50 ms, so every call of `solve` shares one client.
HTTP = openai.DefaultHttpxClient(timeout=60.0)


class ToolError(ValueError):
    """The model called a tool in a way that cannot be carried out; the text goes back to the model."""


def solve(task: dict[str, Any]) -> str:
    """Answers `task["question"]`; empty when the model is still calling tools after the last turn."""
    client = openai.OpenAI(http_client=HTTP)
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_TURNS):
        completion = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "calculator"), messages=messages, tools=[CALCULATOR]
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages += [as_param(message), *tool_results(message)]
    return ""


def as_param(message: ChatCompletionMessage) -> ChatCompletionMessageParam:
    """The assistant message as the next request repeats it, without fields that only servers add."""
    fields = message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True)
    return cast("ChatCompletionMessageParam", fields)


def tool_results(message: ChatCompletionMessage) -> list[ChatCompletionMessageParam]:
    """One tool message per call, in the order of the calls."""
    return [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": call_tool(call.function.name, call.function.arguments)
            if call.type == "function"
            else "error: only function tools exist",
        }
        for call in message.tool_calls or []
    ]


def call_tool(name: str, arguments: str) -> str:
    """Runs a tool and returns its result as text; a bad call returns an error text, never raises."""
    try:
        if name != "calculator":
            raise ToolError(f"there is no tool {name!r}, only 'calculator'")
        return str(calculate(arguments))
    except ToolError as error:
        return f"error: {error}"


def calculate(arguments: str) -> int:
    """Applies one operation; a division must have a whole result."""
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise ToolError("arguments must be JSON") from error
    if not isinstance(given, dict):
        raise ToolError("arguments must be an object with a, op and b")
    a, op, b = (given.get(key) for key in ("a", "op", "b"))
    if type(a) is not int or type(b) is not int:
        raise ToolError("a and b must be integers")
    if not isinstance(op, str) or op not in OPERATIONS:
        raise ToolError("op must be one of + - * /")
    if op == "/" and (b == 0 or a % b):
        raise ToolError(f"{a} / {b} is not a whole number")
    return OPERATIONS[op](a, b)


if __name__ == "__main__":
    print(solve({"question": " ".join(sys.argv[1:])}))
