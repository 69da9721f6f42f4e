"""What a replica says, by script, and the tokens it is made of.

A text's tokens are its words with the space before them, and an end token. Its id derives from its text and a
log-probability from its id, so a test works out from the script alone what must be recorded. Prompts grow as
those of a chat template do: a conversation's tokens begin with those of its beginning.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
END = "<end>"
_PIECES = re.compile(r"\s*[A-Za-z0-9]+|\s*[^A-Za-z0-9\s]|\s+$")


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the script makes; ``arguments`` is JSON text, sent as it is written here."""

    name: str
    arguments: str
    id: str = "call_1"

    def as_json(self) -> Json:
        """The call as a message carries it."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }

    def spoken(self) -> list[str]:
        """What the model samples to make the call: its name, then the pieces of its arguments."""
        return [f"<call {self.name}>", *pieces(self.arguments)]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer. Alternative ``i`` (of ``n``) of a text is told apart by a last word, ``(i)``."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    finish_reason: str = ""

    def tokens(self, alternative: int = 0) -> list[str]:
        """What is sampled, the end token included unless the length limit cut it off."""
        spoken = [*pieces(self.reasoning), *pieces(self.words(alternative))]
        for call in self.calls:
            spoken += call.spoken()
        return spoken if self.finish_reason == "length" else [*spoken, END]

    def words(self, alternative: int = 0) -> str:
        """The text of one alternative."""
        return f"{self.text} ({alternative})" if alternative else self.text

    def reason(self) -> str:
        """Why it ends."""
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    def deltas(self, alternative: int = 0) -> list[Json]:
        """One delta for each sampled token."""
        deltas: list[Json] = [{"reasoning": piece} for piece in pieces(self.reasoning)]
        deltas += [{"content": piece} for piece in pieces(self.words(alternative))]
        for index, call in enumerate(self.calls):
            function = {"name": call.name, "arguments": ""}
            opening = {"id": call.id, "type": "function", "index": index, "function": function}
            deltas.append({"tool_calls": [opening]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in pieces(call.arguments)
            ]
        return deltas if self.finish_reason == "length" else [*deltas, {"content": ""}]


def pieces(text: str) -> list[str]:
    """The tokens of a text; together they are the text."""
    return _PIECES.findall(text)


def token_id(token: str) -> int:
    """A token's id; equal texts have equal ids."""
    return zlib.crc32(token.encode()) % 50_000


def logprob(token: str) -> float:
    """A token's log-probability."""
    return -(1 + token_id(token) % 97) / 100


def ids(tokens: Sequence[str]) -> list[int]:
    """The ids of several tokens."""
    return [token_id(token) for token in tokens]


def prompt_tokens(request: Json) -> list[str]:
    """A chat request as its template renders it; a conversation begins with the tokens of its beginning."""
    tokens = pieces(json.dumps(request["tools"])) if request.get("tools") else []
    for message in request.get("messages", ()):
        tokens += [f"<{message.get('role')}>", *_content_tokens(message.get("content"))]
        for call in message.get("tool_calls") or ():
            function = call["function"]
            tokens += Call(function["name"], function["arguments"]).spoken()
        tokens.append(END)
    return [*tokens, "<assistant>"]


def _content_tokens(content: Any) -> list[str]:
    if isinstance(content, list):
        return [piece for part in content for piece in _part_tokens(part)]
    return pieces(content or "")


def _part_tokens(part: Json) -> list[str]:
    return pieces(part["text"]) if "text" in part else [f"<{part.get('type')}>"]


def prompt_ids(prompt: Any) -> list[list[int]]:
    """The ids of each prompt of a text completion: texts, or ids as they are."""
    if isinstance(prompt, str):
        return [ids(pieces(prompt))]
    if prompt and isinstance(prompt[0], int):
        return [prompt]
    return [ids(pieces(one)) if isinstance(one, str) else one for one in prompt]
