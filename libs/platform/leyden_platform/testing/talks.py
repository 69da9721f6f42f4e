"""Scripted agents for tests: what they say, as the steps that the gateway records of it in any protocol."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from leyden_platform.dialects import messages, responses
from leyden_platform.testing.rollouts import TOOL, answer, call, make_step
from leyden_schemas import JsonObject, Protocol, Step


class Talk:
    """One agent's conversation. Answers are translated as the gateway does, and sent back as agents do."""

    def __init__(
        self,
        protocol: Protocol = Protocol.CHAT,
        *,
        question: str = "2 + 2",
        tools: Sequence[JsonObject] = (TOOL,),
        agent: str = "main",
    ) -> None:
        self.steps: list[Step] = []
        self._protocol, self._agent = protocol, agent
        self._tools = [_tool(tool, protocol) for tool in tools]
        self._said: list[Any] = [{"role": "user", "content": question}]
        self._calls = 0

    def calls(
        self,
        *arguments: str,
        results: Sequence[str | None] = (),
        name: str = "add",
        failed: bool = False,
        **changes: Any,
    ) -> Step:
        """A step that calls the tool once for each of ``arguments``; results that are None are not sent."""
        made = [call(name, written, f"c{self._calls + n}") for n, written in enumerate(arguments)]
        self._calls += len(made)
        step = self._step(answer(None, made), **changes)
        told = [(one["id"], result) for one, result in zip(made, results, strict=False) if result is not None]
        self._said += self._echo(step) + _results(told, self._protocol, failed=failed)
        return step

    def says(self, text: str, *, reply: str | None = None, **changes: Any) -> Step:
        """A step that says something, and what the user says to it."""
        step = self._step(answer(text), **changes)
        self._said += self._echo(step)
        if reply is not None:
            self._said.append({"role": "user", "content": reply})
        return step

    def _step(self, chat: JsonObject, **changes: Any) -> Step:
        request = self._request() | changes.pop("request", {})
        chat["choices"][0]["finish_reason"] = changes.get("finish_reason", "stop")
        defaults = {"request": request, "response": self._answered(chat, request), "agent": self._agent}
        step = make_step(**(defaults | changes))
        self.steps.append(step)
        return step

    def _request(self) -> JsonObject:
        match self._protocol:
            case Protocol.RESPONSES:
                return {"input": list(self._said), "tools": self._tools}
            case Protocol.COMPLETIONS:
                return {"prompt": "\n".join(str(item["content"]) for item in self._said)}
            case _:
                return {"messages": list(self._said), "tools": self._tools}

    def _answered(self, chat: JsonObject, request: JsonObject) -> JsonObject:
        name = UUID(int=len(self.steps)).hex
        match self._protocol:
            case Protocol.RESPONSES:
                return responses.from_chat(chat, request, response_id=f"resp_{name}", created_at=0)
            case Protocol.MESSAGES:
                return messages.from_chat(chat, request, message_id=f"msg_{name}")
            case Protocol.COMPLETIONS:
                choice = chat["choices"][0]
                text = choice["message"]["content"] or ""
                return {"choices": [{"text": text, "finish_reason": choice["finish_reason"]}]}
            case _:
                return chat

    def _echo(self, step: Step) -> list[JsonObject]:
        response = step.response or {}
        match self._protocol:
            case Protocol.RESPONSES:
                return list(response["output"])
            case Protocol.MESSAGES:
                return [{"role": "assistant", "content": response["content"]}]
            case Protocol.COMPLETIONS:
                return [{"role": "assistant", "content": response["choices"][0]["text"]}]
            case _:
                return [response["choices"][0]["message"]]


def _tool(tool: JsonObject, protocol: Protocol) -> JsonObject:
    function = tool["function"]
    match protocol:
        case Protocol.RESPONSES:
            return {"type": "function", **function}
        case Protocol.MESSAGES:
            return {"name": function["name"], "input_schema": function["parameters"]}
        case _:
            return tool


def _results(told: Sequence[tuple[str, str]], protocol: Protocol, *, failed: bool) -> list[JsonObject]:
    match protocol:
        case Protocol.RESPONSES:
            return [{"type": "function_call_output", "call_id": i, "output": text} for i, text in told]
        case Protocol.MESSAGES:
            blocks = [
                {"type": "tool_result", "tool_use_id": call_id, "content": text, "is_error": failed}
                for call_id, text in told
            ]
            return [{"role": "user", "content": blocks}] if blocks else []
        case _:
            return [{"role": "tool", "tool_call_id": call_id, "content": text} for call_id, text in told]


def adding(a: object, b: object) -> str:
    """The arguments of the tool ``add``."""
    return json.dumps({"a": a, "b": b})
