"""What a replica's answer says: sampled ids, log-probabilities, text, tool calls, why it ended.

One ``Capture`` takes in a whole chat completion, or the chunks of a streamed one. ``strip`` removes from
an answer what only the gateway had asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden_gateway.errors import MalformedAnswer
from leyden_gateway.exchange.training_mode import Wants
from leyden_schemas import JsonObject

_JOINED = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a delta whose pieces are concatenated."""


@dataclass(slots=True)
class ChoiceCapture:
    """One alternative of a completion."""

    index: int
    message: JsonObject = field(default_factory=lambda: {"role": "assistant", "content": None})
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    """One per sampled token if the replica kept the protocol; whatever it sent in their place otherwise."""
    finish_reason: str | None = None

    def take_tokens(self, choice: JsonObject) -> None:
        """Append the ids and log-probabilities that a choice, whole or partial, carries."""
        self.token_ids += _token_ids(choice.get("token_ids"))
        logprobs = choice.get("logprobs")
        content = _objects(logprobs.get("content")) if isinstance(logprobs, dict) else ()
        self.logprobs += [item.get("logprob") for item in content]
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish_reason = reason


@dataclass(slots=True)
class Capture:
    """Everything recorded of one answer."""

    prompt_token_ids: list[int] = field(default_factory=list)
    choices: dict[int, ChoiceCapture] = field(default_factory=dict)
    usage: JsonObject | None = None
    error: str | None = None
    head: JsonObject = field(default_factory=dict)
    """The answer's own id, creation time and model."""
    whole_response: JsonObject | None = None

    def whole(self, answer: Any) -> None:
        """Take in a complete, not streamed, answer. Raises ``MalformedAnswer``."""
        payload = self._common(answer)
        for item in _objects(payload.get("choices")):
            choice = self._choice(item)
            choice.take_tokens(item)
            if isinstance(item.get("message"), dict):
                choice.message = item["message"]
        if not self.choices and self.error is None:
            raise MalformedAnswer("the replica's answer has no choices")
        self.whole_response = payload

    def chunk(self, answer: Any) -> None:
        """Take in one chunk of a streamed answer. Raises ``MalformedAnswer``."""
        payload = self._common(answer)
        for item in _objects(payload.get("choices")):
            choice = self._choice(item)
            choice.take_tokens(item)
            if isinstance(delta := item.get("delta"), dict):
                merge_delta(choice.message, delta)

    def _common(self, answer: Any) -> JsonObject:
        if not isinstance(answer, dict):
            raise MalformedAnswer("the replica's answer is not a JSON object")
        if not self.prompt_token_ids:
            self.prompt_token_ids = _token_ids(answer.get("prompt_token_ids"))
        if isinstance(usage := answer.get("usage"), dict):
            self.usage = usage
        if (error := answer.get("error")) is not None:
            self.error = error_text(error)
        if not self.head:
            self.head = {name: answer[name] for name in ("id", "created", "model") if name in answer}
        return answer

    def _choice(self, item: JsonObject) -> ChoiceCapture:
        index = item.get("index", 0)
        if type(index) is not int or index < 0:
            raise MalformedAnswer("a choice of the replica's answer has no valid index")
        return self.choices.setdefault(index, ChoiceCapture(index))

    @property
    def sampled(self) -> bool:
        """Whether any token has arrived."""
        return any(choice.token_ids or choice.logprobs for choice in self.choices.values())

    def finished(self, expected: int) -> bool:
        """Whether all ``expected`` alternatives have ended."""
        return sum(choice.finish_reason is not None for choice in self.choices.values()) >= expected

    def response(self, choice: ChoiceCapture) -> JsonObject | None:
        """The answer as the caller saw it, narrowed to one alternative; a stream is put together again."""
        if self.whole_response is not None:
            items = _objects(self.whole_response.get("choices"))
            return {**self.whole_response, "choices": [i for i in items if i.get("index", 0) == choice.index]}
        if not self.head and not self.choices:
            return None
        item = {"index": choice.index, "message": choice.message, "finish_reason": choice.finish_reason}
        usage = {"usage": self.usage} if self.usage else {}
        return {**self.head, "object": "chat.completion", "choices": [item], **usage}


def merge_delta(message: JsonObject, delta: JsonObject) -> None:
    """Add one streamed piece to the message it is a piece of."""
    for name in _JOINED:
        if isinstance(piece := delta.get(name), str):
            message[name] = (message.get(name) or "") + piece
    if isinstance(role := delta.get("role"), str):
        message["role"] = role
    for piece in _objects(delta.get("tool_calls")):
        _merge_tool_call(message.setdefault("tool_calls", []), piece)


def _merge_tool_call(calls: list[JsonObject], piece: JsonObject) -> None:
    position = piece.get("index", len(calls))
    if type(position) is not int or not 0 <= position <= len(calls):
        raise MalformedAnswer("the pieces of a tool call are out of order")
    if position == len(calls):
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[position]
    call.update({name: piece[name] for name in ("id", "type") if isinstance(piece.get(name), str)})
    function = piece.get("function")
    for name in ("name", "arguments"):
        if isinstance(function, dict) and isinstance(text := function.get(name), str):
            call["function"][name] += text


def strip(answer: JsonObject, wants: Wants) -> bool:
    """Remove what the caller did not ask for, in place. Whether anything was removed."""
    changed = False
    if not wants.token_ids and "prompt_token_ids" in answer:
        del answer["prompt_token_ids"]
        changed = True
    for choice in answer.get("choices") or ():
        if not wants.token_ids and "token_ids" in choice:
            del choice["token_ids"]
            changed = True
        if not wants.logprobs and choice.get("logprobs") is not None:
            choice["logprobs"] = None
            changed = True
    return changed


def strip_chunk(chunk: JsonObject, wants: Wants) -> bool | None:
    """``strip`` for a chunk; None when nothing is left of it, because it only carried usage."""
    changed = strip(chunk, wants)
    if wants.usage or "usage" not in chunk:
        return changed
    if not chunk.get("choices") and "error" not in chunk:
        return None
    del chunk["usage"]
    return True


def error_text(error: Any) -> str:
    """What an OpenAI error object, or anything else in its place, says."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if message is not None else error)[:2000]


def _token_ids(ids: Any) -> list[int]:
    if not isinstance(ids, list):
        return []
    if not _all_of(ids, int):
        raise MalformedAnswer("the replica's token ids are not all integers")
    return ids


def _objects(items: Any) -> Sequence[JsonObject]:
    if items is None:
        return ()
    if not isinstance(items, list) or not _all_of(items, dict):
        raise MalformedAnswer("the replica's answer has something other than objects in a list of objects")
    return items


def _all_of(items: list[Any], kind: type) -> bool:
    """Whether every item is a ``kind``; a loop in C, because answers hold hundreds of tokens."""
    return set(map(type, items)) <= {kind}
