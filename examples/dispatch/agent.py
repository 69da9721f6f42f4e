"""An ordinary tool-calling agent: it sends a parcel from desk to desk until it leaves the house.

Nothing here knows that it is being recorded or trained. Point `OPENAI_BASE_URL` at any
OpenAI-compatible server and run `python tasks.py --count 1 | python agent.py`.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam, ChatCompletionToolParam

from dispatch.tasks import DELIVERED, DESKS, LANES, facts_of, right_lane, shown

MAX_TURNS = 10
"""Turns that the model has: one for each desk, and two for calls that were refused."""

SYSTEM = "Send the parcel on from every desk."
SEND: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "send",
        "description": "Sends the parcel on by a lane.",
        "parameters": {
            "type": "object",
            "properties": {"lane": {"type": "integer", "enum": list(LANES)}},
            "required": ["lane"],
        },
    },
}

# Building an SSL context costs about 50 ms, so every call of `solve` shares one client.
HTTP = openai.DefaultHttpxClient(timeout=60.0)


class ToolError(ValueError):
    """The model called a tool in a way that cannot be carried out; the text goes back to the model."""


class House:
    """The desks that are left for one parcel, and the notes on it. Each call moves it, or is refused."""

    def __init__(self, question: str, desks: Sequence[str]) -> None:
        self._facts, self._ahead = facts_of(question), list(desks)
        self._notes = 0

    @property
    def left(self) -> bool:
        """Whether the parcel has left the house."""
        return not self._ahead

    @property
    def where(self) -> str:
        """Where the parcel is and what counts there, and its notes: `scale large, 1 note`, `delivered`."""
        place = DELIVERED if self.left else shown(self._ahead[0], self._facts)
        return f"{place}, {self._notes} note{'s' * (self._notes > 1)}" if self._notes else place

    @property
    def reminder(self) -> str:
        """What the agent tells a model that talks instead of calling."""
        return f"Still at {self.where}"

    def call_tool(self, name: str, arguments: str) -> str:
        """Runs a tool and returns its result as text; a bad call returns an error text, never raises."""
        try:
            if name != "send":
                raise ToolError(f"there is no tool {name!r}, only 'send'")
            self._send(lane_of(arguments))
        except ToolError as error:
            return f"error: {error}"
        return self.where

    def _send(self, lane: int) -> None:
        if self.left:
            raise ToolError("the parcel has left the house")
        desk = self._ahead[0]
        if lane != right_lane(desk, self._facts):
            if DESKS[desk].strict:
                raise ToolError(f"refused at {self.where}")
            self._notes += 1
        del self._ahead[0]


def lane_of(arguments: str) -> int:
    """The lane that a call names."""
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise ToolError("arguments must be JSON") from error
    lane = given.get("lane") if isinstance(given, dict) else None
    if type(lane) is not int or lane not in LANES:
        raise ToolError("lane must be one of 1 2 3 4")
    return lane


def solve(task: dict[str, Any]) -> str:
    """Where the parcel is when it has left the house or the turns are used up."""
    client = openai.OpenAI(http_client=HTTP)
    house = House(task["question"], task["desks"])
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_TURNS):
        completion = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "dispatch"), messages=messages, tools=[SEND]
        )
        message = completion.choices[0].message
        messages.append(as_param(message))
        messages += tool_results(house, message) or [{"role": "user", "content": house.reminder}]
        if house.left:
            break
    return house.where


def as_param(message: ChatCompletionMessage) -> ChatCompletionMessageParam:
    """The assistant message as the next request repeats it, without fields that only servers add."""
    fields = message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True)
    return cast("ChatCompletionMessageParam", fields)


def tool_results(house: House, message: ChatCompletionMessage) -> list[ChatCompletionMessageParam]:
    """One tool message per call, in the order of the calls."""
    return [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": house.call_tool(call.function.name, call.function.arguments)
            if call.type == "function"
            else "error: only function tools exist",
        }
        for call in message.tool_calls or []
    ]


if __name__ == "__main__":
    print(solve(json.loads(sys.stdin.readline())))
