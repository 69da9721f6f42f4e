"""Hermes-style tool calls in what a model says: ``<tool_call>{"name": …, "arguments": …}</tool_call>``.

The same incremental parser serves whole and streamed completions, so both give the same calls and content.
"""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from leyden_inference.text import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call with its arguments as JSON text."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        """The OpenAI form."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class ToolParser:
    """Splits text into content and tool calls.

    Text that may be the beginning of a tag is withheld; what stands in tags and is no call stays content,
    tags included. White space right after a call is dropped: it separates calls and says nothing.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._after_call = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """The content and the calls that ``text`` completes."""
        self._held += text
        content = ""
        calls: list[ToolCall] = []
        while True:
            marker = CLOSE if self._inside else OPEN
            before, found, after = self._held.partition(marker)
            if not found:
                break
            if self._inside:
                call = parse_call(before)
                if call is None:
                    content += OPEN + before + CLOSE
                else:
                    calls.append(call)
                self._after_call = call is not None
            else:
                content += self._shown(before)
            self._held, self._inside = after, not self._inside
        if not self._inside:
            keep = overlap(self._held, OPEN)
            content += self._shown(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
        return content, calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What is withheld at the end: a call without its closing tag counts when it is complete."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._shown(held), []
        self._inside = False
        call = parse_call(held)
        if call is None:
            return OPEN + held, []
        return "", [call]

    def _shown(self, text: str) -> str:
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        return text


def parse_call(text: str) -> ToolCall | None:
    """The call that ``text`` holds, or None when it is not JSON with a name and arguments."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
        return None
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return ToolCall(f"call_{uuid4().hex[:24]}", call["name"], arguments)
